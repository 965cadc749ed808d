import { type Static, type TSchema, Type } from 'typebox';

/**
 * The part of the Container Runtime Interface that we speak, with the numbers of its fields from
 * https://github.com/kubernetes/cri-api/blob/v0.36.3/pkg/apis/runtime/v1/api.proto (package runtime.v1; numbers are never used again there, so
 * older and newer runtimes understand it). Fields that are not here are skipped when an answer is read.
 */
const field = (id: number, type: string) => ({ id, type });
const list = (id: number, type: string) => ({ id, type, rule: 'repeated' });
const texts = (id: number) => ({ id, keyType: 'string', type: 'string' });
const message = (fields: Record<string, { id: number; type: string }>) => ({ fields });
const rpc = (requestType: string, responseType: string) => ({ requestType, responseType, comment: '' });

export const PROTOCOL = {
  nested: {
    runtime: {
      nested: {
        v1: {
          nested: {
            RuntimeService: {
              methods: {
                Version: rpc('VersionRequest', 'VersionResponse'),
                ContainerStatus: rpc('ContainerStatusRequest', 'ContainerStatusResponse'),
                PodSandboxStatus: rpc('PodSandboxStatusRequest', 'PodSandboxStatusResponse'),
                ListContainers: rpc('ListContainersRequest', 'ListContainersResponse'),
                ExecSync: rpc('ExecSyncRequest', 'ExecSyncResponse'),
                GetContainerEvents: { ...rpc('GetEventsRequest', 'ContainerEventResponse'), responseStream: true },
              },
            },
            ImageService: { methods: { ImageStatus: rpc('ImageStatusRequest', 'ImageStatusResponse') } },
            VersionRequest: message({ version: field(1, 'string') }),
            VersionResponse: message({
              version: field(1, 'string'),
              runtimeName: field(2, 'string'),
              runtimeVersion: field(3, 'string'),
              runtimeApiVersion: field(4, 'string'),
            }),
            ContainerState: { values: { CONTAINER_CREATED: 0, CONTAINER_RUNNING: 1, CONTAINER_EXITED: 2, CONTAINER_UNKNOWN: 3 } },
            ContainerMetadata: message({ name: field(1, 'string'), attempt: field(2, 'uint32') }),
            ImageSpec: message({ image: field(1, 'string') }),
            ContainerStatusRequest: message({ containerId: field(1, 'string'), verbose: field(2, 'bool') }),
            ContainerStatusResponse: message({ status: field(1, 'ContainerStatus'), info: texts(2) }),
            ContainerStatus: message({
              id: field(1, 'string'),
              metadata: field(2, 'ContainerMetadata'),
              state: field(3, 'ContainerState'),
              createdAt: field(4, 'int64'),
              exitCode: field(7, 'int32'),
              image: field(8, 'ImageSpec'),
              imageRef: field(9, 'string'),
              labels: texts(12),
              logPath: field(15, 'string'),
              imageId: field(17, 'string'),
            }),
            PodSandboxStatusRequest: message({ podSandboxId: field(1, 'string'), verbose: field(2, 'bool') }),
            PodSandboxStatusResponse: message({ info: texts(2) }),
            ContainerFilter: message({ id: field(1, 'string'), labelSelector: texts(4) }),
            ListContainersRequest: message({ filter: field(1, 'ContainerFilter') }),
            ListContainersResponse: message({ containers: list(1, 'Container') }),
            Container: message({
              id: field(1, 'string'),
              metadata: field(3, 'ContainerMetadata'),
              image: field(4, 'ImageSpec'),
              imageRef: field(5, 'string'),
              state: field(6, 'ContainerState'),
              createdAt: field(7, 'int64'),
              labels: texts(8),
              imageId: field(10, 'string'),
            }),
            ExecSyncRequest: message({ containerId: field(1, 'string'), cmd: list(2, 'string'), timeout: field(3, 'int64') }),
            ExecSyncResponse: message({ stdout: field(1, 'bytes'), stderr: field(2, 'bytes'), exitCode: field(3, 'int32') }),
            GetEventsRequest: message({}),
            ContainerEventType: {
              values: { CONTAINER_CREATED_EVENT: 0, CONTAINER_STARTED_EVENT: 1, CONTAINER_STOPPED_EVENT: 2, CONTAINER_DELETED_EVENT: 3 },
            },
            ContainerEventResponse: message({
              containerId: field(1, 'string'),
              containerEventType: field(2, 'ContainerEventType'),
              containersStatuses: list(5, 'ContainerStatus'),
            }),
            ImageStatusRequest: message({ image: field(1, 'ImageSpec'), verbose: field(2, 'bool') }),
            ImageStatusResponse: message({ image: field(1, 'Image'), info: texts(2) }),
            Image: message({ id: field(1, 'string'), repoTags: list(2, 'string'), repoDigests: list(3, 'string') }),
          },
        },
      },
    },
  },
};

const Labels = Type.Record(Type.String(), Type.String());
/** A message that was not sent is null. */
const Sent = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

const common = {
  id: Type.String(),
  metadata: Sent(Type.Object({ name: Type.String(), attempt: Type.Number() })),
  state: Type.String(),
  /** Nanoseconds, as a decimal number. */
  createdAt: Type.String(),
  image: Sent(Type.Object({ image: Type.String() })),
  imageRef: Type.String(),
  imageId: Type.String(),
  labels: Labels,
};

/** What a runtime answers. It is on the node and trusted as root, but versions differ: checked before it is used. */
export const Answers = {
  Version: Type.Object({ runtimeName: Type.String(), runtimeVersion: Type.String(), runtimeApiVersion: Type.String() }),
  ContainerStatus: Type.Object({
    status: Sent(Type.Object({ ...common, exitCode: Type.Number(), logPath: Type.String() })),
    info: Labels,
  }),
  PodSandboxStatus: Type.Object({ info: Labels }),
  ListContainers: Type.Object({ containers: Type.Array(Type.Object(common)) }),
  GetContainerEvents: Type.Object({
    containerId: Type.String(),
    // A number, where it is newer than ours.
    containerEventType: Type.Unknown(),
    containersStatuses: Type.Array(Type.Object({ id: Type.String(), labels: Labels })),
  }),
  ExecSync: Type.Object({ stdout: Type.Unsafe<Uint8Array>({}), stderr: Type.Unsafe<Uint8Array>({}), exitCode: Type.Number() }),
  ImageStatus: Type.Object({
    image: Sent(Type.Object({ id: Type.String(), repoTags: Type.Array(Type.String()), repoDigests: Type.Array(Type.String()) })),
    info: Labels,
  }),
} as const;
export type Method = keyof typeof Answers;
export type Answer<M extends Method> = Static<(typeof Answers)[M]>;

/**
 * The JSON that `verbose` adds to a container's status, under the key `info`, as far as containerd (internal/cri/types/container_info.go) and
 * CRI-O (server/container_status.go) agree on it.
 */
export const ContainerInfo = Type.Object({
  /** As the runtime's own PID namespace numbers it. */
  pid: Type.Optional(Type.Integer({ minimum: 0 })),
  sandboxID: Type.Optional(Type.String()),
  /** The OCI configuration that the container was made from. */
  runtimeSpec: Type.Optional(Type.Unknown()),
});

/** The same of a pod's sandbox. */
export const SandboxInfo = Type.Object({ runtimeSpec: Type.Optional(Type.Unknown()) });

const Words = Type.Optional(Type.Union([Type.Array(Type.String()), Type.Null()]));

/** The same of an image: its OCI configuration (image-spec, config.md). */
export const ImageInfo = Type.Object({
  imageSpec: Type.Object({
    config: Type.Optional(
      Type.Object({
        Entrypoint: Words,
        Cmd: Words,
        Env: Words,
        User: Type.Optional(Type.String()),
        WorkingDir: Type.Optional(Type.String()),
      }),
    ),
  }),
});
