import { S3Client } from '@aws-sdk/client-s3';
import axios from 'axios';
import { buildSchema, execute, parse, validate } from 'graphql';
import Handlebars from 'handlebars';
import { Redis } from 'ioredis';
import lodash from 'lodash';
import { DateTime } from 'luxon';
import moment from 'moment';
import pg from 'pg';
import { z } from 'zod';

/** Settings are checked at start, as services do. */
const Settings = z.object({
  PORT: z.coerce.number().int().min(1).max(65535).default(8080),
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug']).default('info'),
  DATABASE_URL: z.url().default('postgres://shop@127.0.0.1/shop'),
  REDIS_URL: z.url().default('redis://127.0.0.1'),
  AWS_REGION: z.string().min(1).default('eu-central-1'),
});

/** @param {Record<string, string | undefined>} env */
export const settingsOf = (env) => Settings.parse(env);

/** The clients of what is behind such a service. They connect when first used, so nothing is connected at the checkpoint. */
export const backends = (settings) => ({
  database: new pg.Pool({ connectionString: settings.DATABASE_URL, max: 10 }),
  cache: new Redis(settings.REDIS_URL, { lazyConnect: true }),
  payments: axios.create({ baseURL: 'http://127.0.0.1:9', timeout: 2000 }),
  files: new S3Client({ region: settings.AWS_REGION }),
});

const receipt = Handlebars.compile(
  '<h1>Order {{id}}</h1><p>{{when}}</p><table>{{#each lines}}<tr><td>{{title}}</td><td>{{quantity}}</td><td>{{price}}</td></tr>{{/each}}</table><b>{{total}}</b>',
);
const graph = buildSchema(
  'type Product { sku: String! title: String! price: Int! } type Query { products(cheaperThan: Int!): [Product!]! }',
);
const cheap = parse('query ($limit: Int!) { products(cheaperThan: $limit) { sku title price } }');

/** The catalogue that the service holds in memory; read in slices, so that it answers its health check meanwhile. */
export class Catalogue {
  #products = [];
  #byTag = new Map();

  async load(count) {
    while (this.#products.length < count) {
      for (let end = this.#products.length + 1000; this.#products.length < end; ) {
        const i = this.#products.length;
        this.#products.push({ sku: `sku-${i}`, title: `Product ${i}`, price: (i * 7919) % 10_000, tag: `tag-${i % 89}` });
      }
      await new Promise((done) => setImmediate(done));
    }
    this.#byTag = Map.groupBy(this.#products, (product) => product.tag);
  }

  /** One order from the catalogue to its receipt, and one query over it: what warm-up requests make hot. */
  order(number) {
    const lines = lodash
      .take(lodash.shuffle(this.#byTag.get(`tag-${number % 89}`) ?? []), 12)
      .map((p) => ({ ...p, quantity: 1 + (number % 3) }));
    const total = lodash.sumBy(lines, (l) => l.price * l.quantity);
    const now = DateTime.utc();
    const html = receipt({ id: number, when: `${now.toISO()} (${moment(now.toMillis()).format('LLLL')})`, lines, total });
    const source = { products: ({ cheaperThan }) => lines.filter((l) => l.price < cheaperThan) };
    if (validate(graph, cheap).length > 0) throw new Error('the query does not fit the schema');
    const { data } = execute({ schema: graph, document: cheap, rootValue: source, variableValues: { limit: 5000 } });
    return { lines: lines.length, total, cheap: data.products.length, receiptBytes: html.length };
  }
}
