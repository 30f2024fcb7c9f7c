import { Postern } from './postern.mjs'

const home = new Postern({
  names: process.env.HOME_NAMES.split(','),
  aws: { audience: process.env.HOME_AUDIENCE },
  endpoint: { ssm: { parameter: '/postern/endpoint' } },
})

export const handler = async (event, context) => {
  const res = await home.call('POST', '/orders', { body: event, context })
  if (res.status !== 200) throw new Error(`home answered ${res.status}`)
  return res.json()
}
