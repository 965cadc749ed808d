/** What a trial container has instead of an address that leads anywhere (192.0.2.0/24 is for documentation, RFC 5737: nobody's). */
export const TRIAL_ADDRESS = '192.0.2.2';
const TRIAL_ADDRESS_6 = 'fd72:656b:ffff:ffff::2';

/** Commands of `ip -batch` within a new network: an `eth0` whose other end lies in it too, so an address that works, and no way out. */
export const TRIAL_LINKS: readonly string[] = [
  'link set lo up',
  'link add eth0 type veth peer name nowhere',
  `address add ${TRIAL_ADDRESS}/24 dev eth0`,
  `address add ${TRIAL_ADDRESS_6}/64 dev eth0 nodad`,
  'link set nowhere up',
  'link set eth0 up',
];
