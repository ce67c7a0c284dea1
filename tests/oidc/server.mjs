// A real issuer of OpenID Connect: `node server.mjs STATE.json`.
//
// STATE.json: {port, back, kid, conform, accounts: {NAME: {claims}}, wrong}. Accounts and `wrong`
// are read anew for each request, so that a test takes a role away while it runs. `wrong` names
// what this issuer does to the ID tokens that it gives out, or to access tokens where there are no
// ID tokens. Keys are new at each start.
import { readFileSync } from 'node:fs';
import { CompactSign, decodeJwt, exportJWK, generateKeyPair } from 'jose';
import Provider from 'oidc-provider';

const now = () => JSON.parse(readFileSync(process.argv[2], 'utf8'));
const start = now();
const kid = start.kid ?? crypto.randomUUID();
const pair = () => generateKeyPair('RS256', { extractable: true });
const own = await pair();
const another = await pair();

const provider = new Provider(`http://127.0.0.1:${start.port}`, {
  clients: [
    {
      client_id: 'qwarden',
      client_secret: 'a secret: with % signs',
      redirect_uris: [start.back],
    },
    {
      client_id: 'tool',
      client_secret: 'tool',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    },
  ],
  jwks: { keys: [{ ...(await exportJWK(own.privateKey)), kid, alg: 'RS256', use: 'sig' }] },
  cookies: { keys: ['of no use to anybody'] },
  pkce: { required: () => true },
  conformIdTokenClaims: start.conform,
  claims: { openid: ['sub'], profile: ['preferred_username', 'roles', 'tenants', 'languages'] },
  findAccount: (ctx, id) => {
    const claims = now().accounts[id];
    return claims && { accountId: id, claims: () => ({ sub: id, preferred_username: id, ...claims }) };
  },
  extraTokenClaims: (ctx, token) => now().accounts[token.clientId],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({
        audience: resource,
        scope: '',
        accessTokenFormat: 'jwt',
        accessTokenTTL: 60,
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  ttl: { IdToken: 60, AccessToken: 60, AuthorizationCode: 60, Session: 600, Interaction: 600, Grant: 600 },
});

const base64url = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const signed = (claims, key, alg = 'RS256') =>
  new CompactSign(Buffer.from(JSON.stringify(claims))).setProtectedHeader({ alg, kid }).sign(key);

const WRONGS = {
  unsigned: (claims) => `${base64url({ alg: 'none' })}.${base64url(claims)}.`,
  shared_secret: (claims) => signed(claims, Buffer.from('a secret: with % signs'.repeat(3)), 'HS256'),
  another_key: (claims) => signed(claims, another.privateKey),
  audience: (claims) => signed({ ...claims, aud: 'somebody-else' }, own.privateKey),
  audience_with_azp: (claims) =>
    signed({ ...claims, aud: 'somebody-else', azp: 'qwarden' }, own.privateKey),
  no_audience: ({ aud, ...claims }) => signed(claims, own.privateKey),
  issuer: (claims) => signed({ ...claims, iss: 'http://127.0.0.1:1' }, own.privateKey),
  nonce: (claims) => signed({ ...claims, nonce: 'another' }, own.privateKey),
  no_nonce: ({ nonce, ...claims }) => signed(claims, own.privateKey),
  no_end: ({ exp, ...claims }) => signed(claims, own.privateKey),
  over: (claims) => signed({ ...claims, exp: claims.iat - 3600 }, own.privateKey),
  no_time: ({ iat, ...claims }) => signed(claims, own.privateKey),
  later: (claims) => signed({ ...claims, iat: claims.iat + 50 }, own.privateKey),
  nothing: () => undefined,
  garbage: () => 'a.b',
  none: (claims) => signed(claims, own.privateKey),
};

provider.use(async (ctx, next) => {
  await next();
  const { wrong } = now();
  if (wrong && ctx.path === '/token') {
    const kind = ctx.body.id_token ? 'id_token' : 'access_token';
    ctx.body = { ...ctx.body, [kind]: await WRONGS[wrong](decodeJwt(ctx.body[kind])) };
  }
});

provider.listen(start.port, '127.0.0.1');
