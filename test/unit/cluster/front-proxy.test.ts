import { expect, test } from 'vitest';
import { type FrontProxy, frontProxyOf, requesterOf } from '../../../src/cluster/front-proxy.ts';

const DATA = {
  'requestheader-client-ca-file': 'PEM',
  'requestheader-allowed-names': '["front-proxy"]',
  'requestheader-username-headers': '["X-Remote-User"]',
  'requestheader-group-headers': '["X-Remote-Group"]',
  'requestheader-extra-headers-prefix': '["X-Remote-Extra-"]',
};

function proxyOf(data: Record<string, string> = DATA): FrontProxy {
  const proxy = frontProxyOf(data);
  if (proxy === undefined) throw new Error('no front proxy');
  return proxy;
}

const ask = (headers: Record<string, string[]>, commonName: string | undefined = 'front-proxy', proxy = proxyOf()) =>
  requesterOf(proxy, { commonName, headers });

test('user, groups and what else is known of the user are in the headers that the API server names', () => {
  const headers = {
    'x-remote-user': ['jane'],
    'x-remote-group': ['devs', 'system:authenticated'],
    'x-remote-extra-scopes': ['a', 'b'],
    'x-remote-extra-acme.com%2fproject': ['p'],
    'x-other': ['x'],
  };

  expect(ask(headers)).toEqual({
    user: 'jane',
    uid: undefined,
    groups: ['devs', 'system:authenticated'],
    extra: { scopes: ['a', 'b'], 'acme.com/project': ['p'] },
  });
});

test('whoever has a name is authenticated, though the API server does not say so', () => {
  const groups = (user: string, ...said: string[]) => ask({ 'x-remote-user': [user], 'x-remote-group': said })?.groups;

  expect(groups('system:kube-aggregator')).toEqual(['system:authenticated']);
  expect(groups('system:anonymous', 'system:unauthenticated')).toEqual(['system:unauthenticated']);
  expect(groups('system:anonymous')).toEqual([]);
});

test('without a certificate of the front proxy, or a user, it is nobody', () => {
  const headers = { 'x-remote-user': ['jane'] };

  expect(requesterOf(proxyOf(), { commonName: undefined, headers })).toBeUndefined();
  expect(ask(headers, 'somebody')).toBeUndefined();
  expect(ask({ 'x-remote-user': [''] })).toBeUndefined();
  expect(ask(headers, 'anybody', proxyOf({ ...DATA, 'requestheader-allowed-names': '[]' }))?.user).toBe('jane');
});

test('an API server without a front proxy has none, and text that is no list names nothing', () => {
  expect(frontProxyOf(undefined)).toBeUndefined();
  expect(frontProxyOf({ 'client-ca-file': 'PEM' })).toBeUndefined();
  expect(frontProxyOf({ ...DATA, 'requestheader-username-headers': 'X-Remote-User' })?.userHeaders).toEqual([]);
});
