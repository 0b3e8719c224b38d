# Health of each region. The records that fail over are made by external-dns from the chart's ingress (region.role,
# region.healthCheck); REGION.HOST is the ingress of region.host.
data "aws_route53_zone" "service" {
  name = var.zone_name
}

resource "aws_route53_health_check" "region" {
  for_each          = local.regions
  type              = "HTTPS"
  fqdn              = "${each.value}.${var.host}"
  port              = 443
  resource_path     = "/health/ready"
  request_interval  = 30
  failure_threshold = 3
  enable_sni        = true
  tags              = { Name = "${var.name}-${each.key}" }
}

output "health_checks" {
  description = "The chart's region.healthCheck by role."
  value       = { for role, check in aws_route53_health_check.region : role => check.id }
}
