import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parse } from 'yaml';

const MANIFESTS = join(import.meta.dirname, '..', '..', '..', 'manifests');
const read = (path: string) => readFileSync(join(MANIFESTS, path), 'utf8');

test("the operator's PrometheusRule has the alerts of the rule file", () => {
  const rule = parse(read('overlays/prometheus-operator/prometheus-rule.yaml'));

  expect(rule.spec.groups).not.toEqual([]);
  expect(rule.spec).toEqual(parse(read('observability/prometheus-rules.yaml')));
});

test('every kustomization that sets images also names the fields of ours that hold one', () => {
  const kustomizations = ['base', ...readdirSync(join(MANIFESTS, 'overlays')).map((name) => `overlays/${name}`)];
  const setsImages = kustomizations.filter((dir) => parse(read(`${dir}/kustomization.yaml`)).images !== undefined);

  expect(setsImages).toContain('base');
  for (const dir of setsImages) {
    expect(parse(read(`${dir}/kustomization.yaml`)).configurations).toEqual(['image-names.yaml']);
    expect(read(`${dir}/image-names.yaml`)).toBe(read('base/image-names.yaml'));
  }
});

test('the images of the base have the version of the program', () => {
  const { version } = JSON.parse(readFileSync(join(MANIFESTS, '..', 'package.json'), 'utf8'));
  const { images } = parse(read('base/kustomization.yaml'));

  expect(images.map(({ name, newTag }: { name: string; newTag: string }) => [name, newTag])).toEqual(
    ['rekindle', 'rekindle-agent', 'rekindle-slot', 'rekindle-redis'].map((name) => [name, version]),
  );
});
