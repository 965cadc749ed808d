/** The programs that checkpoint/ runs, by absolute path. */
export type CheckpointTools = {
  readonly criu: string;
  /** images/agent/helper.c, built. */
  readonly helper: string;
  /** images/agent/rlimit.c, built; only where CAP_SYS_RESOURCE is missing. */
  readonly preload: string | undefined;
  /** A directory on a tmpfs that stands at /run while criu runs: its cache of kernel features saves about 20 ms and is kept on a tmpfs only. */
  readonly criuRunDir: string;
  /** Where the machine's own files are: empty, or `/proc/1/root` for an agent in a container with the machine's PIDs. */
  readonly hostRoot: string;
};
