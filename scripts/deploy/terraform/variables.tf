variable "name" {
  description = "The beginning of all names; that of buckets is worldwide, so it has your organisation in it."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "Expected 3 to 31 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "primary_region" {
  description = "Where DNS leads while it is well, such as eu-central-1."
  type        = string
}

variable "secondary_region" {
  description = "Where DNS leads otherwise, and where buckets and images are replicated to."
  type        = string
}

variable "zone_name" {
  description = "The public hosted zone in Route 53 that the service's name is in, such as example.com."
  type        = string
}

variable "host" {
  description = "The name of the service in it, such as speech.example.com; each region also has REGION.HOST for its health."
  type        = string
}

variable "administrators" {
  description = "ARNs of the roles that may administer the clusters."
  type        = list(string)
}

variable "administrator_networks" {
  description = "Networks (CIDR) from which the clusters' API is reached."
  type        = list(string)
  validation {
    condition     = !contains(var.administrator_networks, "0.0.0.0/0")
    error_message = "The clusters' API is not for everyone: give your own networks."
  }
}

variable "image_tag" {
  description = "The tag of the function's image; empty makes no function."
  type        = string
  default     = ""
}

variable "kept_days" {
  description = "How long buckets keep what was deleted or replaced, and logs are kept: what is forgotten is gone then."
  type        = number
  default     = 30
}
