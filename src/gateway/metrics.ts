/** What the gateway counts. Labels are from closed sets: `workload` is one that exists. None may throw. */
export interface GatewayMetrics {
  /** An answer has ended: `seconds` since the request came. `status` 0: the client had gone. */
  answered(
    labels: { readonly workload: string; readonly start: 'warm' | 'restore' | 'cold' | 'none'; readonly status: number },
    seconds: number,
  ): void;
  /** A request had to wait for an instance, and got it or not. */
  waited(workload: string, outcome: 'served' | 'full' | 'deadline' | 'gone', seconds: number): void;
  /** A request was given to another instance than the first. */
  sentAgain(workload: string): void;
}
