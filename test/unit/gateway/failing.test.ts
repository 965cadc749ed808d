import { createServer as createTcpServer, type Socket } from 'node:net';
import { expect, test } from 'vitest';
import { aSlot } from '../../fixtures/fake-view.ts';
import { until } from '../../fixtures/until.ts';
import { type Application, Rig } from './rig.ts';
import { Wire } from './wire.ts';

type Said = { readonly code: string; readonly message: string };

async function asked(url: string, init: RequestInit = {}): Promise<{ status: number; said: Said; headers: Headers }> {
  const answer = await fetch(url, init);
  const text = await answer.text();
  return { status: answer.status, said: text.startsWith('{') ? JSON.parse(text) : { code: '', message: text }, headers: answer.headers };
}

/** An application that speaks bytes; counts the requests it got. */
async function raw(
  stack: AsyncDisposableStack,
  onRequest: (socket: Socket, count: number) => void,
): Promise<{ address: string; count: () => number }> {
  let count = 0;
  const sockets = new Set<Socket>();
  const server = createTcpServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined).on('close', () => sockets.delete(socket));
    socket.on('data', (chunk) => {
      for (const _ of chunk.toString('latin1').matchAll(/ HTTP\/1.1\r\n/g)) onRequest(socket, ++count);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  stack.defer(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return { address: `127.0.0.1:${address.port}`, count: () => count };
}

const closedPort = '127.0.0.1:1';
const asApplication = (address: string) => ({ address }) as Application;

test('an unknown workload is told with the nearest name, and no workload at all with the form', async () => {
  await using rig = await Rig.open();
  rig.view.workloads({ thumbnails: {} });

  const near = await asked(`${rig.url}/invoke/thumbnial/x`);
  const none = await asked(`${rig.url}/invoke/`);

  expect([near.status, near.said.code, near.said.message]).toEqual([404, 'not_found', 'no workload thumbnial: did you mean thumbnails?']);
  expect([none.status, none.said.message]).toEqual([404, 'say which workload: /invoke/WORKLOAD/PATH']);
});

test('before workloads are known a request waits for them', async () => {
  await using rig = await Rig.open();
  const application = await rig.application((_, response) => response.end('hello'));

  const answer = fetch(`${rig.url}/invoke/demo`);
  await until('it is under way', () => rig.traffic.invoker.running === 1);
  rig.view.workloads({ demo: {} });
  rig.ready([application]);

  expect(await (await answer).text()).toBe('hello');
});

test('without any workloads heard it is told so', async () => {
  await using rig = await Rig.open();
  rig.view.connected = false;

  const { status, said, headers } = await asked(`${rig.url}/invoke/demo`);

  expect([status, said.message]).toEqual([503, 'this gateway knows no workloads yet: Redis does not answer']);
  expect(headers.get('retry-after')).toBe('2');
});

test('a line of pool.maxWaiting is full: 503 at once', async () => {
  await using rig = await Rig.open();
  const application = await rig.application((_, response) => response.end('ok'));
  rig.view.workloads({ demo: { maxWaiting: 2 } });
  const waiting = [fetch(`${rig.url}/invoke/demo`), fetch(`${rig.url}/invoke/demo`)];
  await until('two wait', () => rig.traffic.admission.waiting('demo') === 2);

  const { status, said, headers } = await asked(`${rig.url}/invoke/demo`);
  rig.ready([application]);

  expect([status, said.code, headers.get('retry-after')]).toEqual([503, 'not_ready', '1']);
  expect(said.message).toContain('2 requests wait for demo already');
  expect((await Promise.all(waiting)).map((one) => one.status)).toEqual([200, 200]);
});

test('at its deadline a request that waits hears what the slots are doing', async () => {
  await using rig = await Rig.open();
  rig.view.workloads({ demo: { deadlineSeconds: 0.2 } });
  rig.view.connected = false;
  rig.view.node('n1', [
    aSlot('demo', { state: 'restoring', ready: false }),
    aSlot('demo', { uid: 'bad', name: 'demo-bad', state: 'failed', ready: false, error: 'the disk is full' }),
  ]);

  const { status, said } = await asked(`${rig.url}/invoke/demo`);

  expect([status, said.code]).toEqual([504, 'timeout']);
  expect(said.message).toBe(
    'no instance of demo was free within 0.2 s: of its slots 1 being restored, 1 failed; Redis does not answer, so this may be old; no scaler leads; slot demo-bad on n1: the disk is full',
  );
  expect(rig.traffic.admission.waiting('demo')).toBe(0);
});

test('an application that does not begin to answer is given up at the deadline, and its connection closed', async () => {
  await using rig = await Rig.open();
  let closed = false;
  await rig.serving(
    (incoming) => {
      incoming.socket.on('close', () => {
        closed = true;
      });
    },
    { deadlineSeconds: 0.2 },
  );

  const { status, said } = await asked(`${rig.url}/invoke/demo`);

  expect([status, said.code]).toEqual([504, 'timeout']);
  expect(said.message).toContain('has not begun to answer within 0.2 s');
  await until('the application sees it', () => closed);
  expect(rig.traffic.admission.inFlight('demo')).toBe(0);
});

test('an instance that refuses connections is passed over, also by a request with a body', async () => {
  await using rig = await Rig.open();
  const application = await rig.application((incoming, response) => incoming.pipe(response));
  rig.view.workloads({ demo: {} });
  rig.ready([asApplication(closedPort)]);

  const get = fetch(`${rig.url}/invoke/demo`);
  const post = fetch(`${rig.url}/invoke/demo`, { method: 'POST', body: 'kept' });
  await until('both failed once', () => rig.problems.recent().length > 0 && rig.traffic.admission.waiting('demo') === 2);
  rig.ready([asApplication(closedPort), application]);

  expect([(await get).status, await (await post).text()]).toEqual([200, 'kept']);
  expect(rig.problems.recent()[0]?.text).toContain('it refuses connections');
});

test('a request that an instance died of is sent again only when that is safe', async () => {
  await using stack = new AsyncDisposableStack();
  const rig = stack.use(await Rig.open());
  const dying = await raw(stack, (socket) => socket.destroy());
  let served = 0;
  const healthy = await rig.application((_, response) => {
    served += 1;
    response.end('ok');
  });
  rig.view.workloads({ demo: { maxConcurrency: 10 } });
  const both = () => rig.ready([asApplication(dying.address), healthy]);
  const only = () => rig.ready([asApplication(dying.address)]);

  only();
  const post = await asked(`${rig.url}/invoke/demo`, { method: 'POST', body: 'x' });
  const emptyPost = await asked(`${rig.url}/invoke/demo`, { method: 'POST' });
  const put = await asked(`${rig.url}/invoke/demo`, { method: 'PUT', body: 'x' });
  const afterUnsafe = dying.count();
  const get = fetch(`${rig.url}/invoke/demo`);
  await until('it was sent', () => dying.count() > afterUnsafe);
  both();

  expect([post.status, post.said.code, emptyPost.status, put.status]).toEqual([502, 'container_failed', 502, 502]);
  expect(post.said.message).toContain('it closed the connection before its answer was whole');
  expect(afterUnsafe).toBe(3);
  expect([(await get).status, served]).toEqual([200, 1]);
});

test('a GET that kills every instance is given up after three', async () => {
  await using stack = new AsyncDisposableStack();
  const rig = stack.use(await Rig.open());
  const dying = await raw(stack, (socket) => socket.destroy());
  rig.view.workloads({ demo: { maxConcurrency: 10 } });
  rig.ready([asApplication(dying.address)]);

  const { status } = await asked(`${rig.url}/invoke/demo`);

  expect([status, dying.count()]).toEqual([502, 3]);
});

test.each([
  ['chunked', 'transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n'],
  ['of a known length', 'content-length: 10\r\n\r\nhello'],
])('an answer %s that breaks off reaches the client broken off, and is not asked for again', async (_, head) => {
  await using stack = new AsyncDisposableStack();
  const rig = stack.use(await Rig.open());
  const dying = await raw(stack, (socket) => socket.write(`HTTP/1.1 200 OK\r\n${head}`, () => setTimeout(() => socket.destroy(), 20)));
  rig.view.workloads({ demo: {} });
  rig.ready([asApplication(dying.address)]);

  const answer = await fetch(`${rig.url}/invoke/demo`);

  expect(answer.status).toBe(200);
  await expect(answer.text()).rejects.toThrow();
  expect(dying.count()).toBe(1);
  await until('nothing is left', () => rig.traffic.invoker.running === 0 && rig.traffic.admission.inFlight('demo') === 0);
});

test.each([
  'SSH-2.0-OpenSSH\r\n',
  'HTTP/1.1 999999 x\r\n\r\n',
  'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n',
])('an application that answers %j has failed', async (bytes) => {
  await using stack = new AsyncDisposableStack();
  const rig = stack.use(await Rig.open());
  const odd = await raw(stack, (socket) => socket.end(bytes, 'latin1'));
  rig.view.workloads({ demo: {} });
  rig.ready([asApplication(odd.address)]);

  for (const body of [undefined, 'x']) {
    const { status, said } = await asked(`${rig.url}/invoke/demo`, body === undefined ? {} : { method: 'POST', body });
    expect([status, said.code]).toEqual([502, 'container_failed']);
  }
});

test('a client that goes while it waits leaves the line; one that goes while it is served ends that', async () => {
  await using rig = await Rig.open();
  let aborted = 0;
  const application = await rig.application((_, response) => {
    response.on('close', () => {
      if (!response.writableFinished) aborted += 1;
    });
    response.write('beginning');
  });
  rig.view.workloads({ demo: {} });
  const get = 'GET /invoke/demo/ HTTP/1.1\r\nhost: localhost\r\n\r\n';

  using waiting = new Wire(rig.port);
  waiting.send(get);
  await until('it waits', () => rig.traffic.admission.waiting('demo') === 1);
  waiting.socket.destroy();
  await until('it waits no more', () => rig.traffic.admission.waiting('demo') === 0);
  rig.ready([application]);
  for (const head of [get, 'POST /invoke/demo/ HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nhalf']) {
    using served = new Wire(rig.port);
    served.send(head);
    await until('the answer begins', () => served.text.includes('beginning'));
    served.socket.destroy();
    await until('the instance is free', () => rig.traffic.admission.inFlight('demo') === 0);
  }

  await until('the application was told', () => aborted === 2);
  expect(rig.traffic.invoker.running).toBe(0);
});

test('nothing new goes to an instance that is drained, and requests in line get what becomes free', async () => {
  await using rig = await Rig.open();
  const [one, two] = [
    await rig.application((_, response) => response.end('one')),
    await rig.application((_, response) => response.end('two')),
  ];
  rig.view.workloads({ demo: { maxConcurrency: 5 } });
  rig.ready([one, two]);
  rig.view.scaler({ draining: [`uid-${one.address}`] });

  const answers = await Promise.all(Array.from({ length: 5 }, () => fetch(`${rig.url}/invoke/demo`).then((answer) => answer.text())));
  rig.view.scaler({ draining: [`uid-${one.address}`, `uid-${two.address}`] });
  const waiting = fetch(`${rig.url}/invoke/demo`).then((answer) => answer.text());
  await until('it waits', () => rig.traffic.admission.waiting('demo') === 1);
  rig.view.scaler({ draining: [] });

  expect(answers).toEqual(Array(5).fill('two'));
  expect(['one', 'two']).toContain(await waiting);
});

test('a workload that is taken away has nobody waiting for it', async () => {
  await using rig = await Rig.open();
  rig.view.workloads({ demo: {}, other: {} });
  const answer = asked(`${rig.url}/invoke/demo`);
  await until('it waits', () => rig.traffic.admission.waiting('demo') === 1);

  rig.view.workloads({ other: {} });

  expect((await answer).status).toBe(404);
});
