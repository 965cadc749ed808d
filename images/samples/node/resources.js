/**
 * What the API is about, as data: every resource gets the usual five routes, and every route its schemas. Thirty resources make some five
 * hundred schemas, which is what services of this kind compile at each start, and why they start slowly.
 */

const text = (maxLength = 200) => ({ type: 'string', minLength: 1, maxLength });
const id = { type: 'string', format: 'uuid' };
const time = { type: 'string', format: 'date-time' };
const money = {
  type: 'object',
  required: ['amount', 'currency'],
  additionalProperties: false,
  properties: { amount: { type: 'integer', minimum: 0 }, currency: { type: 'string', enum: ['EUR', 'USD', 'GBP', 'CHF', 'JPY'] } },
};
const address = {
  type: 'object',
  required: ['street', 'city', 'country'],
  properties: { street: text(), city: text(100), zip: text(20), country: { type: 'string', pattern: '^[A-Z]{2}$' } },
};
const contact = {
  type: 'object',
  properties: { name: text(), email: { type: 'string', format: 'email' }, phone: text(40), address },
};
const line = {
  type: 'object',
  required: ['productId', 'quantity', 'price'],
  properties: {
    productId: id,
    quantity: { type: 'integer', minimum: 1 },
    price: money,
    discount: { type: 'number', minimum: 0, maximum: 1 },
  },
};

const sales = { customerId: id, lines: { type: 'array', minItems: 1, items: line }, total: money, shipTo: address, note: text(2000) };
const party = {
  contact,
  vatId: text(30),
  terms: { type: 'string', enum: ['prepaid', 'net14', 'net30'] },
  addresses: { type: 'array', items: address },
};
const goods = {
  sku: text(40),
  title: text(),
  price: money,
  weightGrams: { type: 'integer', minimum: 0 },
  tags: { type: 'array', items: text(40) },
};
const event = { subjectId: id, at: time, kind: text(60), detail: { type: 'object', additionalProperties: { type: 'string' } } };

const fieldsOf = {
  ...Object.fromEntries(
    ['orders', 'quotes', 'invoices', 'refunds', 'carts', 'subscriptions', 'returns', 'shipments'].map((n) => [n, sales]),
  ),
  ...Object.fromEntries(['customers', 'suppliers', 'carriers', 'employees', 'stores', 'companies', 'agents'].map((n) => [n, party])),
  ...Object.fromEntries(['products', 'bundles', 'parts', 'vouchers', 'services', 'samples', 'spares'].map((n) => [n, goods])),
  ...Object.fromEntries(['audits', 'payments', 'reviews', 'tickets', 'visits', 'alerts', 'messages', 'exports'].map((n) => [n, event])),
};

export const problem = {
  type: 'object',
  required: ['statusCode', 'message'],
  properties: { statusCode: { type: 'integer' }, code: { type: 'string' }, error: { type: 'string' }, message: { type: 'string' } },
};

/** @returns {{ name: string, create: object, change: object, item: object, list: object, query: object, params: object }[]} */
export const resources = Object.entries(fieldsOf).map(([name, fields]) => {
  const item = {
    type: 'object',
    required: ['id', 'createdAt'],
    properties: { id, createdAt: time, updatedAt: time, version: { type: 'integer' }, ...fields },
  };
  return {
    name,
    create: { type: 'object', required: [Object.keys(fields)[0]], additionalProperties: false, properties: fields },
    change: { type: 'object', minProperties: 1, additionalProperties: false, properties: fields },
    item,
    list: {
      type: 'object',
      required: ['items'],
      properties: { items: { type: 'array', items: item }, total: { type: 'integer' }, next: { type: 'string', nullable: true } },
    },
    query: {
      type: 'object',
      properties: {
        limit: { type: 'integer', minimum: 1, maximum: 500, default: 50 },
        after: id,
        since: time,
        sort: { type: 'string', enum: ['id', '-id', 'createdAt', '-createdAt'] },
      },
    },
    params: { type: 'object', required: ['id'], properties: { id } },
  };
});
