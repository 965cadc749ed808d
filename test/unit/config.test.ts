import { expect, test } from 'vitest';
import { readConfig } from '../../src/config.ts';
import { toRekindleError } from '../../src/lib/errors.ts';

test('without variables, and with empty ones, everything has its default', () => {
  const config = readConfig({ REKINDLE_STATE_DIR: '', REKINDLE_LOG: undefined });

  expect(config).toMatchObject({
    stateDir: '/var/lib/rekindle',
    runDir: '/run/rekindle',
    logLevel: 'warn',
    runtime: undefined,
    subnet: '10.87.0.0/16',
    bridge: 'rekindle0',
  });
  expect(config.buildDir).toMatch(/\/\.build$/);
});

test('what the variables say is taken, paths without a slash at the end', () => {
  const config = readConfig({
    REKINDLE_STATE_DIR: '/srv/state/',
    REKINDLE_RUN_DIR: '/srv/run',
    REKINDLE_LOG: 'debug',
    REKINDLE_RUNTIME: 'runc',
    REKINDLE_SUBNET: '192.168.7.0/24',
    REKINDLE_BRIDGE: 'rk-7',
    REKINDLE_BUILD_DIR: '/srv/build',
    REDIS_URL: 'rediss://:secret@redis.example:6380/1',
    REKINDLE_TOKEN: 'a-token-of-mine',
    REKINDLE_SLOT_IMAGE: 'example.org/slot:1',
    REKINDLE_SLOT_FILES: 'copy',
    REKINDLE_PLAIN_REGISTRIES: 'localhost:5000, 10.0.0.0/8,fd00::/8',
  });

  expect(config).toEqual({
    stateDir: '/srv/state',
    runDir: '/srv/run',
    logLevel: 'debug',
    runtime: 'runc',
    subnet: '192.168.7.0/24',
    bridge: 'rk-7',
    buildDir: '/srv/build',
    redisUrl: 'rediss://:secret@redis.example:6380/1',
    token: 'a-token-of-mine',
    slotImage: 'example.org/slot:1',
    slotFiles: 'copy',
    plainRegistries: ['localhost:5000', '10.0.0.0/8', 'fd00::/8'],
  });
});

test('a secret that is wrong is not repeated', () => {
  const message = (env: Record<string, string>): string => {
    try {
      readConfig(env);
    } catch (error) {
      return toRekindleError(error).message;
    }
    return '';
  };

  expect(message({ REKINDLE_TOKEN: 'has spaces' })).toMatch(/^REKINDLE_TOKEN: it must be/);
  expect(message({ REDIS_URL: 'ftp://:geheim@x' })).toMatch(/^REDIS_URL: /);
  expect(message({ REDIS_URL: 'ftp://:geheim@x' })).not.toContain('geheim');
});

test.each([
  ['REKINDLE_LOG', 'loud', /one of fatal, error/],
  ['REKINDLE_RUNTIME', 'docker', /one of crun, runc/],
  ['REKINDLE_SUBNET', '10.1.2', /A\.B\.C\.D\/N/],
  ['REKINDLE_SUBNET', '10.1.2.0/30', /N from 8 to 29/],
  ['REKINDLE_BRIDGE', 'a-name-of-16-cha', /1 to 15/],
  ['REKINDLE_BRIDGE', 'with space', /1 to 15/],
  ['REKINDLE_SLOT_FILES', 'volume', /one of auto, image, copy/],
  ['REKINDLE_PLAIN_REGISTRIES', '10.0.0.0/33', /neither HOST/],
  ['REKINDLE_STATE_DIR', 'relative/dir', /absolute/],
  ['REKINDLE_STATE_DIR', '/a,b', /without spaces, colons, commas/],
  ['REKINDLE_RUN_DIR', '/', /absolute/],
  ['REKINDLE_RUN_DIR', `/run/${'x'.repeat(80)}`, /at most 80 bytes/],
])('%s=%s is refused, with the name of the variable and what it may be', (name, value, says) => {
  const error = errorOf({ [name]: value });

  expect(error.code).toBe('config_invalid');
  expect(error.message).toContain(`${name}=${value}: `);
  expect(error.message).toMatch(says);
});

test.each([
  ['/srv/rekindle', '/srv/rekindle'],
  ['/srv/rekindle', '/srv/rekindle/run'],
  ['/srv/rekindle/state', '/srv/rekindle'],
])('state in %s and run directory %s lie in each other, and are refused', (state, run) => {
  expect(errorOf({ REKINDLE_STATE_DIR: state, REKINDLE_RUN_DIR: run }).message).toMatch(/neither may lie in the other/);
});

test('directories that only begin alike are apart', () => {
  expect(readConfig({ REKINDLE_STATE_DIR: '/srv/rekindle', REKINDLE_RUN_DIR: '/srv/rekindle-run' }).runDir).toBe('/srv/rekindle-run');
});

function errorOf(env: Record<string, string>) {
  try {
    readConfig(env);
  } catch (error) {
    return toRekindleError(error);
  }
  throw new Error('it was taken');
}
