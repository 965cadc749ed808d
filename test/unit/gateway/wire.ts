import { connect, type Socket } from 'node:net';

/** A raw connection: what HTTP libraries would not send, and would not show. */
export class Wire implements Disposable {
  readonly socket: Socket;
  text = '';
  closed = false;

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true });
    this.socket.on('data', (chunk) => (this.text += chunk.toString('latin1')));
    this.socket.on('error', () => undefined).on('close', () => (this.closed = true));
  }

  send(text: string): void {
    this.socket.write(text, 'latin1');
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}
