# Terraform, provider hashicorp/aws 6. Copy clients/node/postern.mjs beside
# node/index.mjs first.
variable "audience" { default = "https://mypi.duckdns.org" }

data "aws_caller_identity" "this" {}
data "aws_region" "this" {}

# Once for each account; its issuer goes into callers.orders.aws of postern.yaml.
resource "aws_iam_outbound_web_identity_federation" "this" {}

data "archive_file" "orders" {
  type        = "zip"
  source_dir  = "${path.module}/node"
  output_path = "${path.module}/orders.zip"
}

resource "aws_iam_role" "orders" {
  name = "orders"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "lambda.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy" "home" {
  role = aws_iam_role.orders.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = "sts:GetWebIdentityToken"
        Resource = "*"
        Condition = {
          "ForAllValues:StringEquals" = { "sts:IdentityTokenAudience" = var.audience }
          StringEquals                = { "sts:SigningAlgorithm" = "RS256" }
          NumericLessThanEquals       = { "sts:DurationSeconds" = 900 }
        }
      },
      {
        Effect   = "Allow"
        Action   = "ssm:GetParameter"
        Resource = "arn:aws:ssm:${data.aws_region.this.region}:${data.aws_caller_identity.this.account_id}:parameter/postern/endpoint"
      },
    ]
  })
}

resource "aws_lambda_function" "orders" {
  function_name    = "orders"
  role             = aws_iam_role.orders.arn
  filename         = data.archive_file.orders.output_path
  source_code_hash = data.archive_file.orders.output_base64sha256
  handler          = "index.handler"
  runtime          = "nodejs22.x"
  architectures    = ["arm64"]
  timeout          = 10
  environment {
    variables = { HOME_NAMES = "mypi.duckdns.org,mypi.dedyn.io", HOME_AUDIENCE = var.audience }
  }
}
