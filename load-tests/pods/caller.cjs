// Asks from within the cluster, for who asks it through the API server:
//   /crowd?host=H&count=N   holds N connections to port 80 of H, used once a second, instead of those it held before; answers when all are there
//   /ask?url=U              one request to U, answers how it went
const http = require('node:http');
const net = require('node:net');

let crowd = [];

function connected(host) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(80, host, () => resolve(socket));
    const use = setInterval(() => socket.write(`GET /healthz HTTP/1.1\r\nhost: ${host}\r\n\r\n`), 1_000);
    socket.resume();
    socket.on('error', reject);
    socket.on('close', () => clearInterval(use));
  });
}

async function hold(host, count) {
  for (const socket of crowd) socket.destroy();
  crowd = await Promise.all(Array.from({ length: count }, () => connected(host)));
  return { held: crowd.length };
}

async function ask(url) {
  const began = performance.now();
  const answer = await fetch(url, { signal: AbortSignal.timeout(60_000) });
  const text = await answer.text();
  return { ms: performance.now() - began, status: answer.status, start: answer.headers.get('rekindle-start'), text: text.slice(0, 500) };
}

http
  .createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://here');
    const done =
      pathname === '/ask'
        ? ask(searchParams.get('url'))
        : pathname === '/crowd'
          ? hold(searchParams.get('host'), Number(searchParams.get('count')))
          : Promise.resolve({});
    done.then(
      (said) => response.end(JSON.stringify(said)),
      (error) => response.writeHead(500).end(String(error)),
    );
  })
  .listen(8080);
