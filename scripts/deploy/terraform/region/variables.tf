variable "name" {
  description = "The beginning of all names."
  type        = string
}

variable "cidr" {
  description = "The network of this region, a /16."
  type        = string
}

variable "models_bucket" {
  description = "The bucket of this region with models: id and arn."
  type        = object({ id = string, arn = string })
}

variable "corrections_bucket" {
  description = "The bucket of this region with the audio of corrections: id and arn."
  type        = object({ id = string, arn = string })
}

variable "storage_key" {
  description = "The ARN of the key of both."
  type        = string
}

variable "zone_id" {
  description = "The hosted zone in which external-dns makes records."
  type        = string
}

variable "administrators" {
  description = "ARNs of the roles that may administer the cluster."
  type        = list(string)
}

variable "administrator_networks" {
  description = "Networks from which the cluster's API is reached."
  type        = list(string)
}

variable "kept_days" {
  description = "How long logs are kept."
  type        = number
}
