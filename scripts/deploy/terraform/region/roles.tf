# The roles of pods, by EKS's pod identity: no keys of the cloud anywhere.
data "aws_iam_policy_document" "pod_trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

# The chart's service account: it reads models, and keeps the audio of corrections.
data "aws_iam_policy_document" "service" {
  statement {
    actions   = ["s3:ListBucket"]
    resources = [var.models_bucket.arn, var.corrections_bucket.arn]
  }
  statement {
    actions   = ["s3:GetObject"]
    resources = ["${var.models_bucket.arn}/*"]
  }
  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = ["${var.corrections_bucket.arn}/audio/*"]
  }
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [var.storage_key]
  }
}

# external-dns: records of this zone only. Route 53 has no finer resources for listing.
data "aws_iam_policy_document" "dns" {
  statement {
    actions   = ["route53:ChangeResourceRecordSets", "route53:ListResourceRecordSets", "route53:ListTagsForResource"]
    resources = ["arn:aws:route53:::hostedzone/${var.zone_id}"]
  }
  statement {
    actions   = ["route53:ListHostedZones"]
    resources = ["*"]
  }
}

locals {
  pods = {
    service = { namespace = "voices", account = "speech-finetune", policy = data.aws_iam_policy_document.service.json }
    dns     = { namespace = "external-dns", account = "external-dns", policy = data.aws_iam_policy_document.dns.json }
  }
}

resource "aws_iam_role" "pod" {
  for_each           = local.pods
  name_prefix        = "${var.name}-${each.key}-"
  assume_role_policy = data.aws_iam_policy_document.pod_trust.json
}

resource "aws_iam_role_policy" "pod" {
  for_each = local.pods
  name     = each.key
  role     = aws_iam_role.pod[each.key].id
  policy   = each.value.policy
}

resource "aws_eks_pod_identity_association" "pod" {
  for_each        = local.pods
  cluster_name    = aws_eks_cluster.own.name
  namespace       = each.value.namespace
  service_account = each.value.account
  role_arn        = aws_iam_role.pod[each.key].arn
}
