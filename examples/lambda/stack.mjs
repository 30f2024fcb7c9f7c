// AWS CDK 2. Copy clients/node/postern.mjs beside node/index.mjs first.
import { App, Duration, Stack } from 'aws-cdk-lib'
import { Effect, PolicyStatement } from 'aws-cdk-lib/aws-iam'
import { Architecture, Code, Function, Runtime } from 'aws-cdk-lib/aws-lambda'

const audience = 'https://mypi.duckdns.org'
const stack = new Stack(new App(), 'Orders')
const orders = new Function(stack, 'Orders', {
  code: Code.fromAsset('node'), handler: 'index.handler', runtime: Runtime.NODEJS_22_X, architecture: Architecture.ARM_64, timeout: Duration.seconds(10),
  environment: { HOME_NAMES: 'mypi.duckdns.org,mypi.dedyn.io', HOME_AUDIENCE: audience },
})
orders.addToRolePolicy(new PolicyStatement({
  effect: Effect.ALLOW, actions: ['sts:GetWebIdentityToken'], resources: ['*'],
  conditions: {
    'ForAllValues:StringEquals': { 'sts:IdentityTokenAudience': audience },
    StringEquals: { 'sts:SigningAlgorithm': 'RS256' },
    NumericLessThanEquals: { 'sts:DurationSeconds': 900 },
  },
}))
orders.addToRolePolicy(new PolicyStatement({
  effect: Effect.ALLOW, actions: ['ssm:GetParameter'],
  resources: [stack.formatArn({ service: 'ssm', resource: 'parameter', resourceName: 'postern/endpoint' })],
}))
