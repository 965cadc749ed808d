import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { everyMetric } from '../../fixtures/metrics.ts';

const DIR = join(import.meta.dirname, '..', '..', '..', 'manifests', 'observability');
const read = (name: string) => readFileSync(join(DIR, name), 'utf8');

const strict = { additionalProperties: false } as const;
const Text = Type.String({ minLength: 10 });
const Duration = Type.String({ pattern: '^\\d+[smh]$' });
/** The rule file of Prometheus (https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/), as far as we use it. */
const Rules = Type.Object(
  {
    groups: Type.Array(
      Type.Object(
        {
          name: Type.String(),
          rules: Type.Array(
            Type.Object(
              {
                alert: Type.String({ pattern: '^Rekindle[A-Za-z]+$' }),
                expr: Type.String(),
                for: Type.Optional(Duration),
                labels: Type.Object({ severity: Type.Union([Type.Literal('warning'), Type.Literal('critical')]) }, strict),
                annotations: Type.Object({ summary: Text, description: Text, runbook: Text }, strict),
              },
              strict,
            ),
            { minItems: 1 },
          ),
        },
        strict,
      ),
      { minItems: 1 },
    ),
  },
  strict,
);
const Grid = Type.Object({ x: Type.Integer(), y: Type.Integer(), w: Type.Integer(), h: Type.Integer() });
const Dashboard = Type.Object({
  uid: Type.String(),
  schemaVersion: Type.Integer({ minimum: 36 }),
  templating: Type.Object({ list: Type.Array(Type.Object({ name: Type.String(), definition: Type.Optional(Type.String()) })) }),
  panels: Type.Array(
    Type.Object({
      id: Type.Integer(),
      type: Type.String(),
      title: Type.String(),
      description: Type.Optional(Type.String()),
      gridPos: Grid,
      targets: Type.Optional(Type.Array(Type.Object({ expr: Type.String(), legendFormat: Type.String() }))),
    }),
  ),
});

const rules = Value.Parse(Rules, parse(read('prometheus-rules.yaml'))).groups.flatMap((group) => group.rules);
const dashboard = Value.Parse(Dashboard, JSON.parse(read('grafana-dashboard.json')));
const panels = dashboard.panels.filter(({ type }) => type !== 'row');

/** The series that Prometheus makes of our metrics, with their labels and those that it adds itself. */
const SERIES: ReadonlyMap<string, readonly string[]> = new Map(
  everyMetric().flatMap(({ name, type, labels }) => {
    const suffixes = type === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
    return suffixes.map(
      (suffix) => [`${name}${suffix}`, ['role', 'instance', ...labels, ...(suffix === '_bucket' ? ['le'] : [])]] as const,
    );
  }),
);

/** What an expression names that there is not: series, and labels that their series do not have. */
function unknownIn(expr: string): string[] {
  const found = [...expr.matchAll(/\b(rekindle_\w+)(?:\{([^}]*)\})?/g)];
  if (found.length === 0) return [`no metric in ${expr}`];
  const labelsHere = found.flatMap(([, series = '']) => SERIES.get(series) ?? []);
  const grouped = [...expr.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list = '']) => list.split(',').map((label) => label.trim()));
  return [
    ...found.flatMap(([, series = '', selector = '']) => {
      const labels = SERIES.get(series);
      if (labels === undefined) return [series];
      const used = [...selector.matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g)].map(([, label = '']) => label);
      return used.filter((label) => !labels.includes(label)).map((label) => `${series}{${label}}`);
    }),
    ...grouped.filter((label) => !labelsHere.includes(label)).map((label) => `by (${label})`),
  ];
}

test.each(rules)('the alert $alert asks only for what there is, and its words too', ({ expr, annotations }) => {
  const labels = [
    ...Object.values(annotations)
      .join(' ')
      .matchAll(/\$labels\.(\w+)/g),
  ].map(([, label]) => label ?? '');

  expect(unknownIn(expr)).toEqual([]);
  expect(labels.filter((label) => !new RegExp(`by \\([^)]*\\b${label}\\b`).test(expr))).toEqual([]);
});

test.each(panels)('the panel “$title” asks only for what there is', ({ targets = [], description }) => {
  expect(targets.length).toBeGreaterThan(0);
  expect(description).toMatch(/\w/);
  expect(targets.flatMap(({ expr }) => unknownIn(expr))).toEqual([]);
  for (const { expr, legendFormat } of targets)
    for (const [, label] of legendFormat.matchAll(/\{\{(\w+)\}\}/g)) expect(expr).toMatch(new RegExp(`by \\([^)]*\\b${label}\\b`));
});

test('every metric is on the dashboard or in an alert', () => {
  const text = [...rules.map(({ expr }) => expr), ...panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))].join('\n');
  const definitions = dashboard.templating.list.map(({ definition = '' }) => definition).join('\n');

  expect(everyMetric().filter(({ name }) => !new RegExp(`\\b${name}(_bucket|_sum|_count)?\\b`).test(`${text}\n${definitions}`))).toEqual(
    [],
  );
});

test('a metric that does not exist is found out', () => {
  expect(unknownIn('sum(rate(rekindle_nonsense_total[5m]))')).toEqual(['rekindle_nonsense_total']);
  expect(unknownIn('sum by (color) (rekindle_leader{shape="round"})')).toEqual(['rekindle_leader{shape}', 'by (color)']);
  expect(unknownIn('rate(rekindle_freeze_seconds[5m])')).toEqual(['rekindle_freeze_seconds']);
});

test('the panels of the dashboard lie beside each other, each with an id of its own', () => {
  const cells = dashboard.panels.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, i) => `${x + (i % w)},${y + Math.floor(i / w)}`),
  );

  expect(new Set(dashboard.panels.map(({ id }) => id)).size).toBe(dashboard.panels.length);
  expect(new Set(cells).size).toBe(cells.length);
  expect(dashboard.panels.every(({ gridPos: { x, w } }) => x + w <= 24)).toBe(true);
});
