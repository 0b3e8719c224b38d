# The same in both regions: network, cluster, roles of the pods.
module "primary" {
  source                 = "./region"
  name                   = var.name
  cidr                   = "10.20.0.0/16"
  models_bucket          = aws_s3_bucket.models["primary"]
  corrections_bucket     = aws_s3_bucket.corrections["primary"]
  storage_key            = aws_kms_key.storage["primary"].arn
  zone_id                = data.aws_route53_zone.service.zone_id
  administrators         = var.administrators
  administrator_networks = var.administrator_networks
  kept_days              = var.kept_days
}

module "secondary" {
  source                 = "./region"
  providers              = { aws = aws.secondary }
  name                   = var.name
  cidr                   = "10.21.0.0/16"
  models_bucket          = aws_s3_bucket.models["secondary"]
  corrections_bucket     = aws_s3_bucket.corrections["secondary"]
  storage_key            = aws_kms_key.storage["secondary"].arn
  zone_id                = data.aws_route53_zone.service.zone_id
  administrators         = var.administrators
  administrator_networks = var.administrator_networks
  kept_days              = var.kept_days
}

output "clusters" {
  description = "The clusters by role, for `aws eks update-kubeconfig --region REGION --name NAME`."
  value       = { primary = module.primary.cluster, secondary = module.secondary.cluster }
}

output "repository" {
  description = "Where images are pushed to; the chart's image.repository in the primary region."
  value       = aws_ecr_repository.service.repository_url
}
