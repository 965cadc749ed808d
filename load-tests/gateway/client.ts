// Keeps so many connections busy for so long, one request after the other on each, and prints how long each answer took, in microseconds:
// client.ts PORT PATH CONNECTIONS MS. Raw sockets: a client that costs more than a proxy would measure itself.
import { connect } from 'node:net';

const [port, path, connections, ms] = process.argv.slice(2);
const request = Buffer.from(`GET ${path} HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\nuser-agent: load\r\naccept: */*\r\n\r\n`);
const times: number[] = [];
const until = performance.now() + Number(ms);

await Promise.all(Array.from({ length: Number(connections) }, keepBusy));
process.stdout.write(JSON.stringify(times));

function keepBusy(): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port: Number(port), host: '127.0.0.1', noDelay: true });
    let sentAt = 0;
    let text = '';
    const send = () => {
      sentAt = performance.now();
      socket.write(request);
    };
    socket
      .on('connect', send)
      .on('error', reject)
      .on('close', () => reject(new Error(`${port} closed the connection`)));
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      const head = text.indexOf('\r\n\r\n');
      if (head < 0) return;
      const length = /\r\ncontent-length: (\d+)/i.exec(text)?.[1];
      if (!text.startsWith('HTTP/1.1 200') || length === undefined) {
        reject(new Error(`${port} answered ${text}`));
        return;
      }
      if (text.length < head + 4 + Number(length)) return;
      text = '';
      const now = performance.now();
      times.push(Math.round((now - sentAt) * 1000));
      if (now < until) send();
      else {
        resolve();
        socket.destroy();
      }
    });
  });
}
