# Buckets in both regions: models, and the audio of corrections. What is written in the primary region is replicated.
locals {
  regions = { primary = var.primary_region, secondary = var.secondary_region }
  buckets = merge(
    { for role, region in local.regions : "models-${role}" => merge({ role = role, region = region }, { bucket = aws_s3_bucket.models[role] }) },
    { for role, region in local.regions : "corrections-${role}" => merge({ role = role, region = region }, { bucket = aws_s3_bucket.corrections[role] }) },
  )
}

resource "aws_kms_key" "storage" {
  for_each                = local.regions
  region                  = each.value
  description             = "Objects, images and logs of ${var.name} in ${each.value}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
}

resource "aws_s3_bucket" "models" {
  for_each = local.regions
  region   = each.value
  bucket   = "${var.name}-models-${each.value}"
}

resource "aws_s3_bucket" "corrections" {
  for_each = local.regions
  region   = each.value
  bucket   = "${var.name}-corrections-${each.value}"
}

resource "aws_s3_bucket_public_access_block" "all" {
  for_each                = local.buckets
  region                  = each.value.region
  bucket                  = each.value.bucket.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "all" {
  for_each = local.buckets
  region   = each.value.region
  bucket   = each.value.bucket.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.storage[each.value.role].arn
    }
  }
}

resource "aws_s3_bucket_versioning" "all" {
  for_each = local.buckets
  region   = each.value.region
  bucket   = each.value.bucket.id
  versioning_configuration {
    status = "Enabled"
  }
}

# With versions, what is deleted is still there: `finetune feedback forget` is complete after these days.
resource "aws_s3_bucket_lifecycle_configuration" "all" {
  for_each = local.buckets
  region   = each.value.region
  bucket   = each.value.bucket.id
  rule {
    id     = "forget"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.kept_days
    }
    expiration {
      expired_object_delete_marker = true
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }
  # Recordings that the function has transcribed.
  rule {
    id     = "incoming"
    status = "Enabled"
    filter {
      prefix = "incoming/"
    }
    expiration {
      days = var.kept_days
    }
  }
}

data "aws_iam_policy_document" "tls_only" {
  for_each = local.buckets
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value.bucket.arn, "${each.value.bucket.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "all" {
  for_each = local.buckets
  region   = each.value.region
  bucket   = each.value.bucket.id
  policy   = data.aws_iam_policy_document.tls_only[each.key].json
}

data "aws_iam_policy_document" "replication_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["s3.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "replication" {
  statement {
    actions   = ["s3:GetReplicationConfiguration", "s3:ListBucket"]
    resources = [aws_s3_bucket.models["primary"].arn, aws_s3_bucket.corrections["primary"].arn]
  }
  statement {
    actions   = ["s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging"]
    resources = ["${aws_s3_bucket.models["primary"].arn}/*", "${aws_s3_bucket.corrections["primary"].arn}/*"]
  }
  statement {
    actions   = ["s3:ReplicateObject", "s3:ReplicateDelete", "s3:ReplicateTags"]
    resources = ["${aws_s3_bucket.models["secondary"].arn}/*", "${aws_s3_bucket.corrections["secondary"].arn}/*"]
  }
  statement {
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.storage["primary"].arn]
  }
  statement {
    actions   = ["kms:Encrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.storage["secondary"].arn]
  }
}

resource "aws_iam_role" "replication" {
  name               = "${var.name}-replication"
  assume_role_policy = data.aws_iam_policy_document.replication_trust.json
}

resource "aws_iam_role_policy" "replication" {
  name   = "replication"
  role   = aws_iam_role.replication.id
  policy = data.aws_iam_policy_document.replication.json
}

resource "aws_s3_bucket_replication_configuration" "all" {
  for_each = { models = aws_s3_bucket.models, corrections = aws_s3_bucket.corrections }
  region   = var.primary_region
  bucket   = each.value["primary"].id
  role     = aws_iam_role.replication.arn
  rule {
    id     = "second-region"
    status = "Enabled"
    filter {}
    # What is forgotten here is forgotten there.
    delete_marker_replication {
      status = "Enabled"
    }
    source_selection_criteria {
      sse_kms_encrypted_objects {
        status = "Enabled"
      }
    }
    destination {
      bucket        = each.value["secondary"].arn
      storage_class = "STANDARD"
      encryption_configuration {
        replica_kms_key_id = aws_kms_key.storage["secondary"].arn
      }
    }
  }
  depends_on = [aws_s3_bucket_versioning.all]
}
