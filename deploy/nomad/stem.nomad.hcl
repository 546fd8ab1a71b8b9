# nomad job run -var image=registry.example/stem:1 deploy/nomad/stem.nomad.hcl
#
# The secrets are in the variable nomad/jobs/stem: broker_url and api_tokens.
#   nomad var put nomad/jobs/stem broker_url=@broker-url api_tokens=@api-tokens

variable "image" {
  type        = string
  description = "The image of deploy/Dockerfile, with a tag."
}

variable "workers" {
  type    = number
  default = 2
}

# As deploy/tasks.yaml; put yours in its place. Workers execute these tasks, and the
# API and beats enqueue them as they are declared.
locals {
  tasks = <<EOT
tasks:
  about:
    exec: [/usr/local/bin/stem, version, --output, json]
    timeout: {soft: 10s, hard: 20s}
    retry: {max: 2, base: 1s}
EOT
}

job "stem" {
  type = "service"

  update {
    max_parallel      = 1
    canary            = 0
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "3m"
    progress_deadline = "10m"
    auto_revert       = true
  }

  group "worker" {
    count = var.workers

    network {
      port "metrics" {
        to = 9090
      }
    }

    service {
      name     = "stem-worker"
      port     = "metrics"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/readyz"
        interval = "5s"
        timeout  = "5s"

        check_restart {
          limit = 0
        }
      }

      # It is started anew when its loops hang, not when its store is away.
      check {
        name     = "alive"
        type     = "http"
        path     = "/healthz"
        interval = "10s"
        timeout  = "5s"

        check_restart {
          limit = 3
          grace = "60s"
        }
      }
    }

    task "worker" {
      driver = "docker"
      user   = "65532:65532"

      # More than --grace: a worker that is told to stop finishes what runs. The
      # client's max_kill_timeout has to allow it.
      kill_signal  = "SIGTERM"
      kill_timeout = "75s"

      config {
        image           = var.image
        args            = ["worker", "run", "--id", "worker-${NOMAD_SHORT_ALLOC_ID}", "--http", "0.0.0.0:9090", "--grace", "60s"]
        ports           = ["metrics"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        # For the programs of the tasks file.
        mount {
          type     = "tmpfs"
          target   = "/tmp"
          readonly = false
          tmpfs_options {
            size = 67108864
          }
        }
      }

      env {
        STEM_BROKER_URL   = "@/secrets/broker-url"
        STEM_TASKS_CONFIG = "/local/tasks.yaml"
        STEM_LOG_FORMAT   = "json"
      }

      template {
        destination = "secrets/broker-url"
        perms       = "0444"
        data        = "{{ with nomadVar \"nomad/jobs/stem\" }}{{ .broker_url }}{{ end }}"
      }

      template {
        destination = "local/tasks.yaml"
        data        = local.tasks
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }

  # One leads, the other takes over.
  group "beat" {
    count = 2

    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    network {
      port "metrics" {
        to = 9090
      }
    }

    service {
      name     = "stem-beat"
      port     = "metrics"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/readyz"
        interval = "5s"
        timeout  = "5s"
      }
    }

    task "beat" {
      driver       = "docker"
      user         = "65532:65532"
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      config {
        image           = var.image
        args            = ["beat", "run", "--id", "beat-${NOMAD_SHORT_ALLOC_ID}", "--http", "0.0.0.0:9090"]
        ports           = ["metrics"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        STEM_BROKER_URL   = "@/secrets/broker-url"
        STEM_TASKS_CONFIG = "/local/tasks.yaml"
        STEM_LOG_FORMAT   = "json"
      }

      template {
        destination = "local/tasks.yaml"
        data        = local.tasks
      }

      template {
        destination = "secrets/broker-url"
        perms       = "0444"
        data        = "{{ with nomadVar \"nomad/jobs/stem\" }}{{ .broker_url }}{{ end }}"
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }

  group "api" {
    count = 2

    network {
      port "http" {
        to = 8080
      }
      port "metrics" {
        to = 9090
      }
    }

    service {
      name     = "stem-api"
      port     = "http"
      provider = "nomad"

      check {
        type     = "http"
        port     = "metrics"
        path     = "/readyz"
        interval = "5s"
        timeout  = "5s"
      }
    }

    service {
      name     = "stem-api-metrics"
      port     = "metrics"
      provider = "nomad"
    }

    task "api" {
      driver       = "docker"
      user         = "65532:65532"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      # Callers that use a name for it: one more --allow-host.
      config {
        image           = var.image
        args            = ["serve", "--addr", "0.0.0.0:8080", "--http", "0.0.0.0:9090", "--drain-delay", "8s", "--grace", "15s"]
        ports           = ["http", "metrics"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        STEM_BROKER_URL   = "@/secrets/broker-url"
        STEM_API_TOKENS   = "@/secrets/api-tokens"
        STEM_TASKS_CONFIG = "/local/tasks.yaml"
        STEM_LOG_FORMAT   = "json"
      }

      template {
        destination = "local/tasks.yaml"
        data        = local.tasks
      }

      template {
        destination = "secrets/broker-url"
        perms       = "0444"
        data        = "{{ with nomadVar \"nomad/jobs/stem\" }}{{ .broker_url }}{{ end }}"
      }

      template {
        destination = "secrets/api-tokens"
        perms       = "0444"
        data        = "{{ with nomadVar \"nomad/jobs/stem\" }}{{ .api_tokens }}{{ end }}"
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
