// The service behind every contender: answers 100 bytes. Prints its port.
import { createServer } from 'node:http';

const body = Buffer.from('x'.repeat(100));
const server = createServer((_, response) => {
  response.writeHead(200, { 'content-type': 'text/plain', 'content-length': String(body.length) });
  response.end(body);
});
server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (address !== null && typeof address === 'object') process.stdout.write(`${address.port}\n`);
});
