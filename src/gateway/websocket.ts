/** Follows the frames of one direction of a WebSocket (RFC 6455 5.2), only as far as to know where one ends. */
export class FrameEnd {
  #head: number[] = [];
  #payload = 0;

  /** Nothing of a frame has been passed on that does not end with it. */
  get between(): boolean {
    return this.#payload === 0 && this.#head.length === 0;
  }

  push(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      if (this.#payload > 0) {
        const taken = Math.min(this.#payload, chunk.length - at);
        this.#payload -= taken;
        at += taken;
        continue;
      }
      this.#head.push(chunk[at] ?? 0);
      at += 1;
      const [, second] = this.#head;
      if (second === undefined) continue;
      const length = second & 0x7f;
      const extended = length === 126 ? 2 : length === 127 ? 8 : 0;
      const masked = (second & 0x80) === 0 ? 0 : 4;
      if (this.#head.length < 2 + extended + masked) continue;
      this.#payload = extended === 0 ? length : this.#head.slice(2, 2 + extended).reduce((sum, byte) => sum * 256 + byte, 0);
      this.#head = [];
    }
  }
}

/** 1001: "going away, such as a server going down" (RFC 6455 7.4.1). From server to client, so without a mask. At most 123 bytes of reason. */
export function goingAway(reason: string): Buffer {
  const text = Buffer.from(reason).subarray(0, 123);
  return Buffer.concat([Buffer.from([0x88, text.length + 2, 1001 >> 8, 1001 & 0xff]), text]);
}
