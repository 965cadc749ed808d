import { encodeBytes, encodeNumber, type Field, joinImage, parseMessage, splitImage } from './protobuf.ts';

// Field numbers of criu/images/fdinfo.proto (file_entry) and timerfd.proto (timerfd_entry).
const FILE_ENTRY_TIMERFD = 12;
const TICKS = 5;
const VALUE_SECONDS = 7;
const VALUE_NANOSECONDS = 8;
const INTERVAL_SECONDS = 9;
const INTERVAL_NANOSECONDS = 10;

/**
 * Winds up again the periodic timers of a `files.img` that had expired and were not read yet. For those the kernel tells a remaining time of
 * zero, which CRIU 4.2.1 gives to timerfd_settime(), and zero stops a timer for ever. Returns undefined when there is none.
 */
export function rewindTimers(image: Buffer): Buffer | undefined {
  const { header, entries } = splitImage(image);
  let changed = false;
  const rewritten = entries.map((entry) => {
    const fields = parseMessage(entry);
    if (!fields.some(({ number }) => number === FILE_ENTRY_TIMERFD)) return entry;
    return Buffer.concat(
      fields.map((field) => {
        if (field.number !== FILE_ENTRY_TIMERFD || !Buffer.isBuffer(field.value)) return field.raw;
        const timer = parseMessage(field.value);
        if (!hasRunDown(timer)) return field.raw;
        changed = true;
        return encodeBytes(FILE_ENTRY_TIMERFD, expiringAtOnce(timer));
      }),
    );
  });
  return changed ? joinImage(header, rewritten) : undefined;
}

// A timer that was stopped by its program may have an interval too, but no expirations to read.
function hasRunDown(timer: readonly Field[]): boolean {
  const value = (wanted: number) => timer.find(({ number }) => number === wanted)?.value ?? 0n;
  const remains = value(VALUE_SECONDS) !== 0n || value(VALUE_NANOSECONDS) !== 0n;
  const repeats = value(INTERVAL_SECONDS) !== 0n || value(INTERVAL_NANOSECONDS) !== 0n;
  return !remains && repeats && value(TICKS) !== 0n;
}

function expiringAtOnce(timer: readonly Field[]): Buffer {
  return Buffer.concat(timer.map((field) => (field.number === VALUE_NANOSECONDS ? encodeNumber(VALUE_NANOSECONDS, 1n) : field.raw)));
}
