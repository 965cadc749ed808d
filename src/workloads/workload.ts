import { type Static, Type } from 'typebox';

/**
 * What `rekindle.yaml` says of one workload. Keys below `container`, `checkpoint` and `restore` have the names of the ConfigMap's
 * properties (`cr.container.readiness` is `container.readiness`). Times are seconds, as in Kubernetes probes.
 *
 * `patternErrorMessage` is the sentence shown for a text that does not fit its pattern, by us and by editors that know the keyword
 * (yaml-language-server); on a record it is about the keys. Whatever has a default may be left out in the file.
 */

/** Seconds that any timer of Node can wait: it takes 2^31 ms, and fires at once above. For what nobody of ours waits for. */
const MAX_SECONDS = 1_000_000;
/**
 * What a workload may ask of an agent or a gateway at most. Tenants write it, into ConfigMaps and annotations, and those who serve it serve others too:
 * nothing may keep them busy without an end, or cost more than there is.
 */
export const MOST = {
  /** Of one wait: for an answer, a checkpoint, a gate. */
  seconds: 3_600,
  /** A restore has one of the node's turns for so long, of which there are as many as cores. */
  restoreSeconds: 600,
  successes: 1_000,
  /** A day of attempts, one per second. */
  failures: 100_000,
  requests: 100_000,
  requestsAtOnce: 100,
  actions: 20,
  snapshots: 100,
  instances: 10_000,
  /** Each holds a connection and its buffers. */
  requestsWaiting: 10_000,
} as const;

const strict = { additionalProperties: false } as const;

const absolute = { pattern: '^/', patternErrorMessage: 'must be an absolute path: begin it with /' } as const;
const belowRoot = { pattern: '^/.', patternErrorMessage: 'must be an absolute path below /' } as const;

const Port = Type.Integer({ minimum: 1, maximum: 65535, description: 'port number inside the container' });
const UrlPath = Type.String({
  default: '/',
  pattern: '^/[\\x21-\\x7e]*$',
  patternErrorMessage: 'must begin with / and hold no spaces; write other characters as %XX',
  description: 'path and query of the request',
});
const Headers = Type.Record(
  Type.String({ pattern: "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" }),
  Type.String({
    pattern: '^[\\t\\x20-\\x7e\\x80-\\xff]*$',
    patternErrorMessage: 'must be one line of Latin-1 characters, as HTTP headers are',
  }),
  { patternErrorMessage: 'is not a name of an HTTP header', description: 'request headers; `Host` is localhost:PORT unless given' },
);
const Command = Type.String({
  minLength: 1,
  description: 'a shell command (`/bin/sh -c`) run inside the container with its rights; it must end with 0',
});

const HttpTarget = Type.Object(
  { path: UrlPath, port: Port, headers: Type.Optional(Headers) },
  { ...strict, description: 'GET over HTTP; a status from 200 to 399 means ready, redirects are not followed' },
);

const Timing = {
  initialDelaySeconds: Type.Number({
    default: 0,
    minimum: 0,
    maximum: MOST.seconds,
    description: 'seconds to wait before the first attempt',
  }),
  periodSeconds: Type.Number({
    default: 1,
    exclusiveMinimum: 0,
    maximum: MOST.seconds,
    description: 'seconds from the start of one attempt to the next',
  }),
  timeoutSeconds: Type.Number({
    default: 1,
    exclusiveMinimum: 0,
    maximum: MOST.seconds,
    description: 'seconds after which an attempt has failed',
  }),
  successThreshold: Type.Integer({ default: 1, minimum: 1, maximum: MOST.successes, description: 'successes in a row that mean ready' }),
  failureThreshold: Type.Integer({
    default: 300,
    minimum: 1,
    maximum: MOST.failures,
    description: 'failures in a row after which we give up',
  }),
};

/** Exactly one of `command`, `http`, `tcp` and `grpc`; a plain string is a shell command. */
export const Probe = Type.Union(
  [
    Command,
    Type.Object({ command: Command, ...Timing }, strict),
    Type.Object({ http: HttpTarget, ...Timing }, strict),
    Type.Object(
      { tcp: Type.Object({ port: Port }, { ...strict, description: 'a connection that is accepted means ready' }), ...Timing },
      strict,
    ),
    Type.Object(
      {
        grpc: Type.Object(
          { port: Port, service: Type.String({ default: '', description: 'service name asked for; empty for the server as a whole' }) },
          { ...strict, description: 'grpc.health.v1.Health/Check without TLS; SERVING means ready' },
        ),
        ...Timing,
      },
      strict,
    ),
  ],
  {
    description:
      'when the application is ready: a shell command, or one of `command`, `http`, `tcp`, `grpc` with the timing of Kubernetes probes',
  },
);

const HttpRequest = Type.Object(
  {
    method: Type.Union(
      [
        Type.Literal('GET'),
        Type.Literal('HEAD'),
        Type.Literal('POST'),
        Type.Literal('PUT'),
        Type.Literal('PATCH'),
        Type.Literal('DELETE'),
        Type.Literal('OPTIONS'),
      ],
      { default: 'GET', description: 'HTTP method' },
    ),
    path: UrlPath,
    port: Port,
    headers: Type.Optional(Headers),
    body: Type.Optional(Type.String({ description: 'body of the request, as UTF-8' })),
  },
  { ...strict, description: 'an HTTP request; a status below 400 is success' },
);

const ActionTimeout = Type.Number({
  default: 60,
  exclusiveMinimum: 0,
  maximum: MOST.seconds,
  description: 'seconds for the whole action, all its requests together',
});

/** Requests answered with a status below 400, or a shell command that ends with 0. */
export const Action = Type.Union(
  [
    Command,
    Type.Object({ command: Command, timeoutSeconds: ActionTimeout }, strict),
    Type.Object(
      {
        request: HttpRequest,
        count: Type.Integer({ default: 1, minimum: 1, maximum: MOST.requests, description: 'how many such requests are sent' }),
        concurrency: Type.Integer({
          default: 1,
          minimum: 1,
          maximum: MOST.requestsAtOnce,
          description: 'how many of them at the same time',
        }),
        timeoutSeconds: ActionTimeout,
      },
      strict,
    ),
  ],
  { description: 'a shell command, or one of `command` and `request`' },
);

const At = Type.String({ ...belowRoot, description: 'absolute path of the mount in the container' });

const Volume = Type.Union(
  [
    Type.Object(
      {
        at: At,
        private: Type.Union([Type.Literal('disk'), Type.Literal('memory')], {
          description: 'an empty volume of this container alone; what it holds travels with the snapshot',
        }),
        sizeMiB: Type.Optional(
          Type.Integer({ minimum: 1, description: 'size limit in MiB; for `memory` half of the machine if not given' }),
        ),
      },
      strict,
    ),
    Type.Object(
      {
        at: At,
        from: Type.String({ minLength: 1, description: 'file or directory of this machine; relative to the directory of this file' }),
        readOnly: Type.Boolean({
          default: false,
          description: 'mount it read-only; a file open for writing on a writable one forbids a snapshot',
        }),
      },
      strict,
    ),
  ],
  { description: 'an empty volume of its own (`private`), or something of this machine (`from`)' },
);

const environmentName = 'is not a name of an environment variable (letters, digits, `_`, `.` and `-`, not beginning with a digit)';

const Container = Type.Object(
  {
    image: Type.Optional(
      Type.String({
        pattern: '^(oci-archive:|oci:|docker-archive:|docker://).',
        patternErrorMessage:
          'must begin with one of docker://, oci:, oci-archive: and docker-archive:, e.g. docker://docker.io/library/nginx:1.29',
        description:
          'oci-archive:FILE, oci:DIR[:TAG], docker-archive:FILE or docker://NAME, by tag or digest; paths relative to the directory of this file',
      }),
    ),
    rootfs: Type.Optional(Type.Literal('host', { description: "instead of an image: a throw-away overlay on this machine's own root" })),
    command: Type.Optional(
      Type.Array(Type.String({ description: 'one argument' }), {
        minItems: 1,
        description: "program and arguments; default: the image's entrypoint and command",
      }),
    ),
    workdir: Type.Optional(Type.String({ ...absolute, description: "working directory; default: the image's, else /" })),
    user: Type.Optional(
      Type.String({ minLength: 1, description: "UID[:GID] or a name of the container's /etc/passwd; default: the image's" }),
    ),
    env: Type.Record(Type.String({ pattern: '^[A-Za-z_][A-Za-z0-9_.-]*$' }), Type.String(), {
      default: {},
      patternErrorMessage: environmentName,
      description: "environment variables, added to the image's",
    }),
    instanceEnv: Type.Record(
      Type.String({ pattern: '^[A-Za-z_][A-Za-z0-9_.-]*$' }),
      Type.Union([Type.Literal('name'), Type.Literal('address'), Type.Literal('uid'), Type.Literal('pod')]),
      {
        default: {},
        patternErrorMessage: environmentName,
        description:
          'variables whose value differs per instance (`pod`: something else of a pod, in a cluster only); a clone has the values of the seed, see restore.identity',
      },
    ),
    readOnlyRoot: Type.Boolean({ default: false, description: 'mount the root filesystem read-only' }),
    capabilities: Type.Optional(
      Type.Array(
        Type.String({
          pattern: '^CAP_[A-Z_]+$',
          patternErrorMessage: 'must be a capability such as CAP_NET_BIND_SERVICE',
          description: 'one capability',
        }),
        {
          description: 'capabilities; default: the usual container set; [] for none',
        },
      ),
    ),
    noNewPrivileges: Type.Boolean({ default: true, description: 'no program gains rights by set-user-ID bits' }),
    seccomp: Type.Union([Type.Literal('default'), Type.Literal('unconfined')], {
      default: 'default',
      description: 'system calls allowed; unconfined programs may hold io_uring, which cannot be checkpointed',
    }),
    preload: Type.Boolean({ default: true, description: 'preload the libraries that give clones random numbers of their own' }),
    memoryMiB: Type.Optional(Type.Integer({ minimum: 8, description: 'memory limit in MiB; default: none' })),
    cpus: Type.Optional(Type.Number({ exclusiveMinimum: 0, description: 'CPU limit in cores; default: none' })),
    pids: Type.Optional(Type.Integer({ minimum: 4, description: 'limit on processes and threads; default: none' })),
    volumes: Type.Array(Volume, { default: [], description: 'mounts besides the root filesystem' }),
    ports: Type.Array(Port, { default: [], description: 'ports the application listens on' }),
    readiness: Type.Optional(Probe),
    warmup: Type.Optional(
      Type.Union([Action, Type.Array(Action, { maxItems: MOST.actions })], {
        description: 'what is done once after readiness and before the checkpoint: one action or a list, in order',
      }),
    ),
  },
  { ...strict, description: 'what is started' },
);

/** The policy's checkpoint half; a default for everything that may be left out. */
export const Checkpoint = Type.Object(
  {
    name: Type.Optional(
      Type.String({
        pattern: '^[A-Za-z0-9][A-Za-z0-9._-]*$',
        patternErrorMessage: 'must be letters, digits, `.`, `_` and `-`, beginning with a letter or digit',
        description: 'a name people see for the snapshot',
      }),
    ),
    directory: Type.Optional(
      Type.String({
        pattern: '^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$',
        patternErrorMessage: 'must be a relative path of letters, digits, `.`, `_` and `-`, without `..`',
        description: 'groups snapshots, as in the ConfigMap of the KubeCon talk',
      }),
    ),
    verify: Type.Union([Type.Literal('trial'), Type.Literal('first-restore')], {
      default: 'trial',
      description:
        'restore a new snapshot beside the seed before it is published, or let the first real restore be the trial; random bytes of two clones are compared all the same, unless allowSharedRandom',
    }),
    allowSharedRandom: Type.Boolean({ default: false, description: 'publish although clones draw the same random bytes' }),
    random: Type.Optional(
      Type.Array(Action, { maxItems: MOST.actions, description: 'requests or commands whose output must differ between two clones' }),
    ),
    keep: Type.Integer({ default: 3, minimum: 1, maximum: MOST.snapshots, description: 'snapshots kept of this workload' }),
    maxTotalMiB: Type.Optional(Type.Integer({ minimum: 1, description: 'size of all its snapshots together, in MiB; default: no limit' })),
    maxAgeSeconds: Type.Optional(
      Type.Number({ exclusiveMinimum: 0, description: 'age after which a snapshot is not used any more; default: no limit' }),
    ),
    deadlineSeconds: Type.Number({
      default: 120,
      exclusiveMinimum: 0,
      maximum: MOST.seconds,
      description: 'seconds for the whole checkpoint, trial restore included',
    }),
    gateDeadlineSeconds: Type.Optional(
      Type.Number({
        exclusiveMinimum: 0,
        maximum: MOST.seconds,
        description:
          'in a cluster: seconds that a pod whose containers are ready may be held un-Ready, by its checkpoint or by rekindle being away; default: 30',
      }),
    ),
  },
  { ...strict, default: {}, description: 'how it is checkpointed and how long snapshots are kept' },
);

/** The policy's restore half; a default for everything that may be left out. */
export const Restore = Type.Object(
  {
    after: Type.Optional(Action),
    identity: Type.Optional(
      Type.Union([Type.Literal('file'), Type.Literal('ignore')], {
        description:
          'what a clone does about container.instanceEnv: read the values in identityFile, or ignore them; default: every instance starts cold',
      }),
    ),
    identityFile: Type.String({
      ...belowRoot,
      default: '/tmp/rekindle-identity',
      description: 'where a clone finds its own values (`identity: file`)',
    }),
    cold: Type.Optional(
      Type.String({ minLength: 1, description: 'a reason: every instance starts cold because of it, and there are no snapshots' }),
    ),
    mergeMemory: Type.Boolean({ default: false, description: 'let clones share equal pages (KSM); a timing side channel between tenants' }),
    deadlineSeconds: Type.Number({
      default: 10,
      exclusiveMinimum: 0,
      maximum: MOST.restoreSeconds,
      description: 'seconds after which a restore has failed and the slot starts cold',
    }),
  },
  { ...strict, default: {}, description: 'how clones are restored' },
);

/** How many instances of it there are, for `rekindle up`. */
export const Pool = Type.Object(
  {
    min: Type.Integer({ default: 0, minimum: 0, maximum: MOST.instances, description: 'instances that are always there' }),
    max: Type.Integer({ default: 10, minimum: 1, maximum: MOST.instances, description: 'never more instances than this' }),
    parked: Type.Integer({
      default: 1,
      minimum: 0,
      maximum: MOST.instances,
      description:
        'slots without application that wait to be restored into, beyond the instances there are; both together are at most `max`',
    }),
    targetConcurrency: Type.Number({
      default: 1,
      exclusiveMinimum: 0,
      maximum: 10_000,
      description: 'requests in flight per instance that scaling aims at',
    }),
    maxConcurrency: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 10_000,
        description: 'requests in flight that one instance is given at most; default: targetConcurrency, rounded up',
      }),
    ),
    idleSeconds: Type.Number({
      default: 30,
      minimum: 0,
      maximum: MAX_SECONDS,
      description: 'seconds without a request after which an instance ends and its slot is parked again',
    }),
    stableWindowSeconds: Type.Number({ default: 60, minimum: 1, maximum: 3600, description: 'seconds that demand is averaged over' }),
    burstWindowSeconds: Type.Number({
      default: 6,
      minimum: 1,
      maximum: 3600,
      description: 'the same while demand rises steeply; not above stableWindowSeconds',
    }),
    burstFactor: Type.Number({
      default: 2,
      minimum: 1,
      maximum: 1000,
      description: 'a burst: demand asks for so many times the instances that are ready',
    }),
    stateful: Type.Boolean({ default: false, description: 'an idle instance is suspended with its state, and resumed from that' }),
    port: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 65535, description: 'where requests go; default: the first of container.ports' }),
    ),
    maxWaiting: Type.Integer({
      default: 1000,
      minimum: 0,
      maximum: MOST.requestsWaiting,
      description: 'requests that may wait for an instance in one gateway; above, they are answered 503',
    }),
    deadlineSeconds: Type.Number({
      default: 60,
      exclusiveMinimum: 0,
      maximum: MOST.seconds,
      description: 'seconds that a request may wait for an instance and for the beginning of its answer; then it is answered 504',
    }),
  },
  { ...strict, default: {}, description: 'how many instances there are, and what requests may ask of them (`rekindle up`)' },
);

/** What may be said about one workload; its name is the key in the file. */
export const Workload = Type.Object(
  { container: Container, checkpoint: Checkpoint, restore: Restore, pool: Pool },
  { ...strict, description: 'one container and its policy' },
);

/** The whole of `rekindle.yaml`. */
export const RekindleFile = Type.Object(
  {
    workloads: Type.Record(Type.String({ pattern: '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$' }), Workload, {
      minProperties: 1,
      patternErrorMessage: 'is not a name of a workload (lower-case letters, digits and `-`, at most 40, as in host names)',
      description: 'what is kept warm, by name',
    }),
  },
  strict,
);

/** Pods that are restored only where the policy says so, because what they do outside of themselves may not be done twice. */
const PolicyRestore = Type.Object(
  {
    ...Restore.properties,
    jobs: Type.Boolean({ default: false, description: 'restore pods of Jobs and CronJobs too' }),
    persistentVolumes: Type.Boolean({ default: false, description: 'restore pods with a writable persistent volume too' }),
  },
  { ...strict, default: {} },
);

/** What a ConfigMap says: the same policy without the container, which is the pod's. Keys are `cr.` and the path. */
export const Policy = Type.Object(
  {
    container: Type.Object({ readiness: Type.Optional(Probe), warmup: Type.Optional(Action) }, { ...strict, default: {} }),
    checkpoint: Checkpoint,
    restore: PolicyRestore,
    pool: Pool,
  },
  strict,
);

export type ProbeSpec = Static<typeof Probe>;
export type ActionSpec = Static<typeof Action>;
export type HttpRequestSpec = Static<typeof HttpRequest>;
export type VolumeSpec = Static<typeof Volume>;
export type ContainerSpec = Static<typeof Container>;
export type CheckpointPolicy = Static<typeof Checkpoint>;
export type RestorePolicy = Static<typeof Restore>;
export type PoolSettings = Static<typeof Pool>;
export type PolicySpec = Static<typeof Policy>;

/** A workload with every default filled in; what the rest of rekindle works with. */
export type WorkloadSpec = WorkloadDescription & { readonly name: string };

/** The same without its name. */
export type WorkloadDescription = {
  readonly container: ContainerSpec;
  readonly checkpoint: CheckpointPolicy;
  readonly restore: RestorePolicy;
  readonly pool: PoolSettings;
};
