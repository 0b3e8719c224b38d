# The function of scripts/deploy/lambda in the primary region: what comes into the bucket of recordings becomes text.
locals {
  functions = var.image_tag == "" ? toset([]) : toset(["transcribe"])
  own       = "arn:aws:logs:${var.primary_region}:${data.aws_caller_identity.own.account_id}"
}

data "aws_iam_policy_document" "function_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "function" {
  statement {
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.models["primary"].arn}/*", "${aws_s3_bucket.corrections["primary"].arn}/incoming/*"]
  }
  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.models["primary"].arn]
  }
  statement {
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.corrections["primary"].arn}/texts/*"]
  }
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.storage["primary"].arn]
  }
  statement {
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${local.own}:log-group:/aws/lambda/${var.name}-transcribe:*"]
  }
  dynamic "statement" {
    for_each = local.functions
    content {
      actions   = ["sqs:SendMessage"]
      resources = [aws_sqs_queue.failed[statement.value].arn]
    }
  }
}

resource "aws_iam_role" "function" {
  for_each           = local.functions
  name               = "${var.name}-${each.value}"
  assume_role_policy = data.aws_iam_policy_document.function_trust.json
}

resource "aws_iam_role_policy" "function" {
  for_each = local.functions
  name     = "function"
  role     = aws_iam_role.function[each.value].id
  policy   = data.aws_iam_policy_document.function.json
}

resource "aws_cloudwatch_log_group" "function" {
  for_each          = local.functions
  name              = "/aws/lambda/${var.name}-${each.value}"
  retention_in_days = var.kept_days
}

resource "aws_sqs_queue" "failed" {
  for_each                  = local.functions
  name                      = "${var.name}-${each.value}-failed"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_lambda_function" "transcribe" {
  for_each                       = local.functions
  function_name                  = "${var.name}-${each.value}"
  role                           = aws_iam_role.function[each.value].arn
  package_type                   = "Image"
  image_uri                      = "${aws_ecr_repository.service.repository_url}:${var.image_tag}"
  architectures                  = ["x86_64"]
  memory_size                    = 3538
  timeout                        = 900
  reserved_concurrent_executions = 20
  ephemeral_storage {
    size = 4096
  }
  environment {
    variables = {
      FINETUNE_MODEL  = "s3://${aws_s3_bucket.models["primary"].id}/speech"
      FINETUNE_OUTPUT = "s3://${aws_s3_bucket.corrections["primary"].id}/texts"
    }
  }
  depends_on = [aws_cloudwatch_log_group.function]
}

resource "aws_lambda_function_event_invoke_config" "transcribe" {
  for_each               = local.functions
  function_name          = aws_lambda_function.transcribe[each.value].function_name
  maximum_retry_attempts = 2
  destination_config {
    on_failure {
      destination = aws_sqs_queue.failed[each.value].arn
    }
  }
}

resource "aws_lambda_function_url" "transcribe" {
  for_each           = local.functions
  function_name      = aws_lambda_function.transcribe[each.value].function_name
  authorization_type = "AWS_IAM"
}

resource "aws_lambda_permission" "bucket" {
  for_each       = local.functions
  statement_id   = "bucket"
  action         = "lambda:InvokeFunction"
  function_name  = aws_lambda_function.transcribe[each.value].function_name
  principal      = "s3.amazonaws.com"
  source_arn     = aws_s3_bucket.corrections["primary"].arn
  source_account = data.aws_caller_identity.own.account_id
}

resource "aws_s3_bucket_notification" "incoming" {
  for_each = local.functions
  bucket   = aws_s3_bucket.corrections["primary"].id
  lambda_function {
    lambda_function_arn = aws_lambda_function.transcribe[each.value].arn
    events              = ["s3:ObjectCreated:*"]
    filter_prefix       = "incoming/"
  }
  depends_on = [aws_lambda_permission.bucket]
}
