import { randomBytes } from 'node:crypto';
import { type IncomingMessage, request } from 'node:http';
import { expect, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { until } from '../../fixtures/until.ts';
import { Rig } from './rig.ts';
import { Wire } from './wire.ts';

const CHUNK = randomBytes(1 << 20);

function send(
  url: string,
  options: Parameters<typeof request>[1],
  body?: (sink: ReturnType<typeof request>) => void,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const sink = request(url, options ?? {}, resolve).on('error', reject);
    if (body === undefined) sink.end();
    else body(sink);
  });
}

async function text(answer: IncomingMessage): Promise<string> {
  let all = '';
  for await (const chunk of answer) all += chunk;
  return all;
}

test('events pass one by one, as they are sent', async () => {
  await using rig = await Rig.open();
  let emit = (_: string) => {};
  await rig.serving((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
    emit = (line) => response.write(`data: ${line}\n\n`);
  });

  const answer = await send(`${rig.url}/invoke/demo/events`, {});
  const heard: string[] = [];
  answer.on('data', (chunk) => heard.push(String(chunk))).on('error', () => undefined);
  emit('one');
  await until('the first', () => heard.length === 1);
  emit('two');
  await until('the second', () => heard.length === 2);

  expect(heard).toEqual(['data: one\n\n', 'data: two\n\n']);
});

test('a gigabyte goes up without being kept in memory, no faster than the application reads', async () => {
  await using rig = await Rig.open();
  let received = 0;
  let pausedOnce = false;
  await rig.serving(
    (incoming, response) => {
      incoming.on('data', (chunk) => {
        received += chunk.length;
        if (!pausedOnce) {
          pausedOnce = true;
          incoming.pause();
          setTimeout(() => incoming.resume(), 300);
        }
      });
      incoming.on('end', () => response.end(String(received)));
    },
    { deadlineSeconds: 60 },
  );
  const before = process.memoryUsage();
  let peak = 0;
  let sent = 0;

  const answer = await send(
    `${rig.url}/invoke/demo/up`,
    { method: 'POST', headers: { 'content-length': String(1024 * CHUNK.length) } },
    (sink) => {
      const more = () => {
        const { arrayBuffers } = process.memoryUsage();
        peak = Math.max(peak, arrayBuffers - before.arrayBuffers);
        while (sent < 1024) {
          sent += 1;
          if (!sink.write(CHUNK)) return void sink.once('drain', more);
        }
        sink.end();
      };
      more();
    },
  );

  expect(await text(answer)).toBe(String(1024 * CHUNK.length));
  // Client, gateway and application together, with what has not been collected yet.
  expect(peak).toBeLessThan(256 * 2 ** 20);
});

test('a large answer is read from the application no faster than the client takes it', async () => {
  await using rig = await Rig.open();
  let written = 0;
  await rig.serving((_, response) => {
    const more = () => {
      while (written < 256) {
        written += 1;
        if (!response.write(CHUNK)) return void response.once('drain', more);
      }
      response.end();
    };
    more();
  });

  const answer = await send(`${rig.url}/invoke/demo/`, {});
  await until('the sockets are full', () => written > 1);
  const full = await settled(() => written);
  let length = 0;
  for await (const chunk of answer) length += chunk.length;

  expect(full).toBeLessThan(64);
  expect(length).toBe(256 * CHUNK.length);
});

/** The value once it has stayed the same for a while. */
async function settled(value: () => number): Promise<number> {
  let last = value();
  let since = performance.now();
  await until('it stays the same', () => {
    if (value() !== last) [last, since] = [value(), performance.now()];
    return performance.now() - since > 200;
  });
  return last;
}

test('trailers pass in both directions', async () => {
  await using rig = await Rig.open();
  let seen: unknown;
  await rig.serving((incoming, response) => {
    incoming.resume().on('end', () => {
      seen = incoming.trailers;
      response.writeHead(200, { trailer: 'x-sum' });
      response.write('body');
      response.addTrailers({ 'x-sum': '42' });
      response.end();
    });
  });

  for (const method of ['POST', 'GET']) {
    const answer = await send(`${rig.url}/invoke/demo/`, { method, headers: { te: 'trailers', connection: 'te' } }, (sink) => {
      if (method === 'POST') {
        sink.setHeader('trailer', 'x-mine');
        sink.setHeader('transfer-encoding', 'chunked');
        sink.write('hello');
        sink.addTrailers({ 'x-mine': '7' });
      }
      sink.end();
    });
    await text(answer);
    expect(answer.trailers).toEqual({ 'x-sum': '42' });
    if (method === 'POST') expect(seen).toEqual({ 'x-mine': '7' });
  }
});

test('Expect: 100-continue waits for the application, which may answer without wanting the body', async () => {
  await using rig = await Rig.open();
  const application = await rig.serving((_, response) => response.end('plain'));
  application.server.on('checkContinue', (incoming, response) => {
    if (incoming.url === '/no') return response.writeHead(413, { connection: 'close' }).end('too large');
    response.writeContinue();
    let length = 0;
    incoming.on('data', (chunk: Buffer) => (length += chunk.length)).on('end', () => response.end(String(length)));
  });
  let continued = 0;
  const ask = (path: string) =>
    send(`${rig.url}/invoke/demo${path}`, { method: 'PUT', headers: { expect: '100-continue', 'content-length': '5' } }, (sink) => {
      sink.on('continue', () => {
        continued += 1;
        sink.end('12345');
      });
      sink.flushHeaders();
    });

  const yes = await ask('/yes');
  const no = await ask('/no');

  expect([yes.statusCode, await text(yes), no.statusCode, await text(no), continued]).toEqual([200, '5', 413, 'too large', 1]);
});

test('early hints pass', async () => {
  await using rig = await Rig.open();
  await rig.serving((_, response) => {
    response.writeEarlyHints({ link: '</a.css>; rel=preload' });
    response.end('x');
  });
  const hints: unknown[] = [];

  const answer = await send(`${rig.url}/invoke/demo/`, {}, (sink) =>
    sink.on('information', (info) => hints.push(info.statusCode, info.headers.link)).end(),
  );

  expect(await text(answer)).toBe('x');
  expect(hints).toEqual([103, '</a.css>; rel=preload']);
});

test('HEAD, 204 and 304 have no body, and keep what they say of one', async () => {
  await using rig = await Rig.open();
  await rig.serving((incoming, response) => {
    const status = Number(incoming.url?.slice(1));
    response.writeHead(status, status === 200 ? { 'content-length': '1000' } : { etag: '"x"' });
    response.end();
  });
  const url = `${rig.url}/invoke/demo`;

  const head = await send(`${url}/200`, { method: 'HEAD' });
  const none = await send(`${url}/204`, {});
  const same = await send(`${url}/304`, {});

  expect([head.headers['content-length'], await text(head)]).toEqual(['1000', '']);
  expect([none.statusCode, await text(none), same.statusCode, same.headers.etag, await text(same)]).toEqual([204, '', 304, '"x"', '']);
});

test('headers for this hop do not pass, in neither direction, and cookies and repeated headers all do', async () => {
  await using rig = await Rig.open();
  let seen: IncomingMessage | undefined;
  await rig.serving((incoming, response) => {
    seen = incoming;
    response.writeHead(200, [
      ['set-cookie', 'a=1'],
      ['set-cookie', 'b=2'],
      ['connection', 'x-private'],
      ['x-private', '1'],
      ['proxy-connection', 'keep-alive'],
    ] as never);
    response.end();
  });

  const answer = await send(`${rig.url}/invoke/demo/`, {
    headers: {
      connection: 'x-hop, keep-alive',
      'x-hop': '1',
      'proxy-connection': 'x',
      te: 'gzip',
      'x-forwarded-for': '9.9.9.9',
      forwarded: 'for=9.9.9.9',
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      tracestate: 'a=1',
    },
  });

  expect(answer.headers['set-cookie']).toEqual(['a=1', 'b=2']);
  expect([answer.headers['x-private'], answer.headers['proxy-connection']]).toEqual([undefined, undefined]);
  const headers = seen?.headers ?? {};
  expect([headers['x-hop'], headers['proxy-connection'], headers.te]).toEqual([undefined, undefined, undefined]);
  expect([headers['x-forwarded-for'], headers.forwarded]).toEqual([
    '9.9.9.9, 127.0.0.1',
    `for=9.9.9.9, for=127.0.0.1;host="127.0.0.1:${rig.port}";proto=http`,
  ]);
  expect([headers.traceparent, headers.tracestate]).toEqual(['00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'a=1']);
});

test('a WebSocket is passed both ways, holds its instance while it is open, and its end ends the other side', async () => {
  await using rig = await Rig.open();
  const sockets = new WebSocketServer({ noServer: true });
  const application = await rig.serving((_, response) => response.end(), { maxConcurrency: 1 });
  application.server.on('upgrade', (incoming, socket, head) => {
    sockets.handleUpgrade(incoming, socket, head, (ws) => {
      ws.send(`hello ${incoming.url}`);
      ws.on('message', (data) => ws.send(`echo ${data}`));
    });
  });
  const heard: string[] = [];

  const ws = new WebSocket(`${rig.url.replace('http', 'ws')}/invoke/demo/chat?x=1`);
  ws.on('message', (data) => heard.push(String(data)));
  await until('the greeting', () => heard.length === 1);
  ws.send('one');
  await until('the echo', () => heard.length === 2);
  const during = rig.traffic.admission.inFlight('demo');
  for (const one of sockets.clients) one.close(4000, 'enough');
  const code = await new Promise((resolve) => ws.on('close', resolve));

  expect(heard).toEqual(['hello /chat?x=1', 'echo one']);
  expect([during, code]).toEqual([1, 4000]);
  await until('the instance is free again', () => rig.traffic.admission.inFlight('demo') === 0);
});

test('a change of protocol that the application refuses, or that nobody can serve, is answered', async () => {
  await using rig = await Rig.open();
  const application = await rig.serving((_, response) => response.end());
  application.server.on('upgrade', (_, socket) => socket.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno'));
  const upgrade = (path: string) =>
    `GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n`;

  using refused = new Wire(rig.port);
  refused.send(upgrade('/invoke/demo/'));
  using unknown = new Wire(rig.port);
  unknown.send(upgrade('/invoke/dmeo/'));
  await until('both are answered', () => refused.closed && unknown.closed);

  expect(refused.text).toMatch(/^HTTP\/1.1 403 Forbidden\r\n.*\r\n\r\nno$/s);
  expect(unknown.text).toMatch(/^HTTP\/1.1 404 .*did you mean demo/s);
});

test('an answer that does not wait for the end of the body reaches the client, and the connection behind it is not left open', async () => {
  await using rig = await Rig.open();
  let closed = false;
  await rig.serving((incoming, response) => {
    incoming.socket.on('close', () => {
      closed = true;
    });
    response.writeHead(422).end('not like this');
  });

  using wire = new Wire(rig.port);
  wire.send('POST /invoke/demo/ HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nhalf');
  await until('the answer', () => wire.text.endsWith('not like this\r\n0\r\n\r\n'));

  expect(wire.text).toMatch(/^HTTP\/1.1 422 /);
  await until('the connection behind is closed', () => closed);
  expect(rig.traffic.admission.inFlight('demo')).toBe(0);
});

test('an unused connection to an application is closed before the application would', async () => {
  await using rig = await Rig.open();
  const application = await rig.serving((incoming, response) => incoming.resume().on('end', () => response.end('ok')));
  application.server.keepAliveTimeout = 60_000;
  const open = () => new Promise<number>((resolve) => application.server.getConnections((_, count) => resolve(count)));

  for (const method of ['GET', 'POST'])
    await text(await send(`${rig.url}/invoke/demo/`, { method }, (sink) => sink.end(method === 'POST' ? 'x' : undefined)));
  const before = await open();

  expect(before).toBe(2);
  await until('they are closed', async () => (await open()) === 0, 4_000);
});
