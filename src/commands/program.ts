import { Command, InvalidArgumentError } from 'commander';
import packageJson from '../../package.json' with { type: 'json' };
import { RekindleError } from '../lib/errors.ts';
import type { Context, JsonOption } from './context.ts';
import { type Listen, listenText, parseListen } from './listen.ts';
import type { AgentCommand } from './run-agent.ts';

const OVERVIEW = `
Examples:
  rekindle doctor                             can this machine do it?
  rekindle demo                               see it: three services, cold against restored, and woken by a burst
  rekindle checkpoint web -f rekindle.yaml    start web once, warm it up, keep the snapshot
  rekindle restore web -n 10 -d               ten instances of it, in milliseconds each
  rekindle run web -n 3                       instances that are restored where they can be, else start cold
  rekindle status
  rekindle stop --all
  rekindle up -f rekindle.yaml                the service: instances wake when requests come, and go when none do
  rekindle invoke web /                       one request, through its gateway

Environment:
  REKINDLE_STATE_DIR  snapshots, images, containers (/var/lib/rekindle)
  REKINDLE_RUN_DIR    sockets and work that a reboot may forget (/run/rekindle)
  REKINDLE_BRIDGE     bridge of the containers (rekindle0), and REKINDLE_SUBNET its addresses (10.87.0.0/16)
  REKINDLE_RUNTIME    crun or runc; by default crun where it is installed
  REDIS_URL           of the service, for several machines: redis://…, rediss://…, unix:/…, redis+sentinel://…, redis+cluster://…
  REKINDLE_TOKEN      what the gateway asks for, and \`invoke\` and \`status\` give
  REKINDLE_SLOT_IMAGE of a gateway in a cluster: the image that pods get their slot from, REKINDLE_SLOT_FILES how (auto, image or copy)
  REKINDLE_PLAIN_REGISTRIES  registries that it asks over HTTP what images run: HOST, HOST:PORT or ADDRESS/BITS, by commas
  REKINDLE_LOG        debug, info, warn, error: log as JSON lines on standard error

Exit status: 0, 130 or 143 when interrupted, else that of the error: see README, Errors.`;

const FILE = ['-f, --file <file>', 'where the workloads are described', 'rekindle.yaml'] as const;
const LISTEN = ['--listen <address>', 'PORT, ADDRESS:PORT or [ADDRESS]:PORT', parseListen, { host: '127.0.0.1', port: 7070 }] as const;
const HEALTH = ['--listen <address>', '/healthz, /readyz and /metrics there: PORT, ADDRESS:PORT or [ADDRESS]:PORT', parseListen] as const;
const KUBECONFIG = ['--kubeconfig <file>', 'of the cluster; default: KUBECONFIG, or ~/.kube/config'] as const;
const CONTEXT = ['--context <name>', 'of the kubeconfig; default: its current one'] as const;
const JSON_FLAG = ['--json', 'for scripts: one line of JSON on standard output, everything else on standard error'] as const;

function wholeNumber(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('Give a whole number from 1 on.');
  return value;
}

/** Seconds, of which there may be none. */
function seconds(text: string): number {
  return text === '0' ? 0 : wholeNumber(text);
}

const examples = (...lines: readonly string[]): string => `\nExamples:\n${lines.map((line) => `  ${line}`).join('\n')}`;

/** The whole command line. Wrong ones throw commander's `CommanderError`, after it has said what is wrong. */
export function program(context: Context): Command {
  const cli = new Command('rekindle')
    .description('Warm a service once, restore it in milliseconds: CRIU snapshots as the way containers start.')
    .version(packageJson.version)
    .addHelpText('after', OVERVIEW)
    .exitOverride();
  const does: Does =
    (load) =>
    async (...args) =>
      (await load())(context, ...(args as never[]));
  const command = (parent: Command, usage: string, description: string, ...lines: readonly string[]): Command => {
    const made = parent
      .command(usage)
      .description(description)
      .addHelpText('after', examples(...lines));
    return made.configureOutput({
      outputError: (text, write) => write(`${text.replace(/^error: /, 'rekindle: ').trimEnd()} [usage]; see \`${pathOf(made)} --help\`\n`),
    });
  };
  cli.configureOutput({
    outputError: (text, write) => write(`${text.replace(/^error: /, 'rekindle: ').trimEnd()} [usage]; see \`rekindle --help\`\n`),
  });
  addVerbs(cli, command, does);
  const kept = command(cli, 'snapshots', 'look at the kept snapshots, check and remove them', 'rekindle snapshots ls --json');
  addSnapshotVerbs(kept, command, does);
  return cli;
}

type MakeCommand = (parent: Command, usage: string, description: string, ...examples: readonly string[]) => Command;
type Action = (context: Context, ...args: never[]) => Promise<void>;
/** A command's own program is loaded when it is wanted: all of them together take a second to read. */
type Does = (load: () => Promise<Action>) => (...args: unknown[]) => Promise<void>;

function pathOf(command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`;
}

function addVerbs(cli: Command, command: MakeCommand, does: Does): void {
  command(
    cli,
    'demo',
    'warm up, checkpoint and restore the sample services, and print what it brought; leaves nothing behind',
    'rekindle demo --only node python --clones 3',
    'rekindle demo --json | tail -1',
  )
    .option(...JSON_FLAG)
    .option('--only <names...>', 'only these samples')
    .option('--clones <n>', 'clones of each', wholeNumber, 10)
    .option('--no-burst', 'leave out the second act: a burst at each from zero, served by restores')
    .option('--stay', 'on a terminal: wait for Enter before the bursts, so that the page can be open, and for Ctrl-C after them')
    .action(does(async () => (await import('./demo.ts')).demo));
  command(
    cli,
    'doctor',
    'every fact that matters about this machine, or about one workload; ends with 4 when one forbids it',
    'rekindle doctor',
    'rekindle doctor --workload web -f rekindle.yaml',
    'rekindle doctor --cluster             that of the kubeconfig, and rekindle in it',
  )
    .option('--workload <name>', 'can this one be checkpointed, and if not, why')
    .option('--cluster', 'every fact that matters about a Kubernetes cluster instead')
    .option(...FILE)
    .option(...JSON_FLAG)
    .action(does(async () => examine));
  command(
    cli,
    'run <workload>',
    'start instances: restored where a snapshot fits, else cold; the first one becomes the snapshot. Ends them at Ctrl-C',
    'rekindle run web -n 3                 in the foreground',
    'rekindle run web -d --json            left running; `rekindle stop` ends it',
  )
    .option(...FILE)
    .option('-n, --count <n>', 'how many', wholeNumber, 1)
    .option('-d, --detach', 'leave them running and return, once the snapshot is there if one is made here')
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./run.ts')).run));
  command(
    cli,
    'checkpoint <workload>',
    'start one instance cold, warm it up, keep a snapshot of it, end it; prints the digest',
    'rekindle checkpoint web -f deploy/rekindle.yaml',
    'digest=$(rekindle checkpoint web)',
  )
    .option(...FILE)
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./checkpoint.ts')).checkpoint));
  command(
    cli,
    'restore <workload>',
    'start instances from the snapshot of a workload; fails, and leaves none, unless every one was restored',
    'rekindle restore web -n 10            in the foreground',
    'rekindle restore web -n 10 -d --json  left running',
  )
    .option(...FILE)
    .option('-n, --count <n>', 'how many', wholeNumber, 1)
    .option('-d, --detach', 'leave them running and return')
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./restore.ts')).restore));
  command(cli, 'stop [names...]', 'end instances by name or uid', 'rekindle stop web-1a2b3c', 'rekindle stop --all --grace 0')
    .option('--all', 'every instance on this machine')
    .option('--grace <seconds>', 'time to end by themselves', seconds, 10)
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./stop.ts')).stop));
  command(
    cli,
    'status',
    'instances, snapshots and the agent of this machine, and the service that `up` or REDIS_URL make it part of',
    'rekindle status --watch',
    'rekindle status --json',
    'rekindle status --cluster -n shop     that of a Kubernetes cluster; `kubectl rekindle status` is the same',
  )
    .option('-w, --watch', 'again every second, until Ctrl-C')
    .option('--cluster', 'workloads, pods, snapshots and nodes of the Kubernetes cluster of the kubeconfig instead')
    .option('-n, --namespace <name>', 'with --cluster: only what is in this namespace')
    .option(...KUBECONFIG)
    .option(...CONTEXT)
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./status.ts')).status));
  command(
    cli,
    'agent',
    'serve the slots of this machine until told to end (SIGTERM); other commands then use it. Logs to standard error',
    'rekindle agent',
    'rekindle agent --json                 every event as a line of JSON',
  )
    .option('--json', 'every event as a line of JSON on standard output')
    .option('--node <name>', 'with REDIS_URL: what this machine is called in the service; default: its host name')
    .option(
      '--peer-listen <address>',
      'with REDIS_URL: where other agents fetch snapshots; default: a free port of 127.0.0.1, or 7655 of the node',
      (text) => listenText(parseListen(text)),
    )
    .option(
      '--cluster',
      'serve the opted-in pods of this Kubernetes node instead (in the DaemonSet): needs REDIS_URL, REKINDLE_NODE and REKINDLE_HOST_IP',
    )
    .option(
      '--retire',
      'with --cluster: start what is parked on this node, leave nothing of rekindle on it, and wait to be ended (`uninstall` asks for this)',
    )
    .option('--keep-snapshots', 'with --retire: leave the snapshots')
    .option(...HEALTH)
    .option('--max-instances <n>', 'with REDIS_URL: instances that this machine takes at most', wholeNumber, 500)
    .action(
      does(async () => {
        const { runAgent } = await import('./run-agent.ts');
        return (of: Context, options: AgentCommand) => runAgent(of, { ...options, redis: of.config.redisUrl });
      }),
    );
  addService(cli, command, does);
  command(
    cli,
    'uninstall',
    'removes rekindle from a Kubernetes cluster: starts what is parked, cleans every node, deletes the objects. Live pods go on. May be run again',
    'rekindle uninstall --yes',
    'kubectl rekindle uninstall --yes --keep-snapshots',
  )
    .option('--yes', 'without it nothing is done, and what would be is said')
    .option('--keep-snapshots', 'leave the snapshots on the nodes, in /var/lib/rekindle, for when it is installed again')
    .option('--timeout <seconds>', 'for all nodes', wholeNumber, 600)
    .option('--no-wait', 'end before the namespace has gone (what runs in it ends with it)')
    .option(...KUBECONFIG)
    .option(...CONTEXT)
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./uninstall.ts')).uninstall));
  command(cli, 'schema', 'the JSON schema of rekindle.yaml, for editors', 'rekindle schema >rekindle.schema.json')
    .option('--json', 'it is JSON anyway')
    .action(does(async () => (await import('./schema.ts')).printSchema));
}

function addService(cli: Command, command: MakeCommand, does: Does): void {
  command(
    cli,
    'up',
    'the whole service on this machine: agent, scaler and gateway, and a redis-server unless REDIS_URL names one. Ctrl-C ends it',
    'rekindle up -f rekindle.yaml           then: curl 127.0.0.1:7070/invoke/web/',
    'rekindle up --nodes 2 --listen 8080    two agents, as if they were two machines',
  )
    .option(...FILE)
    .option(...LISTEN)
    .option('--nodes <n>', 'agents', wholeNumber, 1)
    .option(
      '--metrics <address>',
      'health and metrics of the scaler there, of agents at the ports after it (the gateway has its own)',
      parseListen,
    )
    .option('--keep', 'leave instances running when it ends; the next `up` finds them again')
    .option('--json', 'every start of a part, and when all is ready, as a line of JSON on standard output')
    .action(does(async () => (await import('./up.ts')).up));
  command(
    cli,
    'invoke <workload> [path]',
    'one request to a workload through the gateway, which wakes an instance where none is; prints the body, fails with 1 from status 400 on',
    'rekindle invoke web /hello',
    'rekindle invoke web /orders -X POST -d \'{"n":1}\' -i',
  )
    .option('-X, --method <method>', 'HTTP method; default: GET, or POST with --data')
    .option('-d, --data <text>', 'body of the request; @FILE reads it from there, - from standard input')
    .option('-H, --header <line...>', 'request headers, as NAME: VALUE')
    .option('-i, --include', 'show status and headers too, on standard error')
    .option('--gateway <url>', 'where the gateway is', 'http://127.0.0.1:7070')
    .option('--json', 'one line of JSON: status, headers, start, waitMs, body')
    .action(does(async () => (await import('./invoke.ts')).invoke));
  command(
    cli,
    'scaler',
    'the role alone: decides how many instances there are. Any number may run, one leads. Needs REDIS_URL',
    'REDIS_URL=redis://10.0.0.5 rekindle scaler -f rekindle.yaml     SIGHUP: read the file again',
  )
    .option(...FILE)
    .option(...HEALTH)
    .option(
      '--cluster',
      "keep the opted-in pods of a Kubernetes cluster instead of a file's workloads, and serve external metrics (in the Deployment)",
    )
    .option('--metrics-listen <address>', 'with --cluster: external metrics for the API server; default: 0.0.0.0:7444', parseListen)
    .option('--keda-listen <address>', "with --cluster: KEDA's external scaler; default: 0.0.0.0:7445", parseListen)
    .option('--json', 'the workloads it keeps as a line of JSON on standard output')
    .action(
      does(async () => async (of: Context, { cluster, ...options }: ScalerCommand) => {
        const redis = redisOf(of);
        if (cluster !== true) return (await import('./run-scaler.ts')).runScaler(of, { ...options, redis });
        return (await import('./run-cluster-scaler.ts')).runClusterScaler(of, { ...options, redis });
      }),
    );
  command(
    cli,
    'gateway',
    'the role alone: requests, API and page. Any number may run. Needs REDIS_URL; REKINDLE_TOKEN protects it',
    'REDIS_URL=redis://10.0.0.5 REKINDLE_TOKEN=… rekindle gateway --listen 0.0.0.0:7070',
  )
    .option('--listen <address>', 'PORT, ADDRESS:PORT or [ADDRESS]:PORT; default: 127.0.0.1:7070, in a cluster 0.0.0.0:7070', parseListen)
    .option(
      '--cluster',
      'in a cluster (in the Deployment): workloads have namespaces, and the webhook is served; needs REKINDLE_SLOT_IMAGE',
    )
    .option('--webhook-listen <address>', 'with --cluster: where the API server reaches the webhook', parseListen, {
      host: '0.0.0.0',
      port: 7443,
    })
    .option('--drain <seconds>', 'time for requests that run when it is told to end', seconds, 30)
    .option('--forget <seconds>', 'time for balancers to notice that /readyz says 503; default: 0, in a cluster 5', seconds)
    .option('--json', 'its address as a line of JSON on standard output, once it listens')
    .action(
      does(async () => {
        const { runGateway } = await import('./run-gateway.ts');
        return (of: Context, { drain, forget, ...options }: JsonOption & GatewayOptions) => {
          const times = { drainMs: drain * 1000, forgetMs: (forget ?? (options.cluster ? 5 : 0)) * 1000 };
          const listen = options.listen ?? { host: options.cluster ? '0.0.0.0' : '127.0.0.1', port: 7070 };
          return runGateway(of, { ...options, listen, redis: redisOf(of), token: of.config.token, ...times });
        };
      }),
    );
}

type ScalerCommand = {
  readonly file: string;
  readonly cluster?: boolean;
  readonly listen?: Listen;
  readonly metricsListen?: Listen;
  readonly kedaListen?: Listen;
};
type GatewayOptions = {
  readonly listen?: Listen;
  readonly cluster?: boolean;
  readonly webhookListen: Listen;
  readonly drain: number;
  readonly forget?: number;
};

/** Of a role that is nothing without it. */
function redisOf({ config }: Context): string {
  if (config.redisUrl !== undefined) return config.redisUrl;
  throw new RekindleError('usage', 'set REDIS_URL to the Redis of the service, or use `rekindle up`, which starts one');
}

function addSnapshotVerbs(kept: Command, command: MakeCommand, does: Does): void {
  command(kept, 'ls', 'newest first', 'rekindle snapshots ls --json')
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./snapshots.ts')).list));
  command(kept, 'inspect <digest>', 'the whole manifest; the start of a digest is enough', 'rekindle snapshots inspect 3245c7')
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./snapshots.ts')).inspect));
  command(
    kept,
    'verify [digest]',
    'read every byte of one or all; corrupt ones are removed, and the exit status is 13',
    'rekindle snapshots verify',
  )
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./snapshots.ts')).verify));
  command(
    kept,
    'import <directory>',
    'add a copied snapshot directory, after comparing all of it with its manifest. CRIU parses it as root: only what you trust',
    'rekindle snapshots import /mnt/backup/3245c79c4c7fd864…',
  )
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./snapshots.ts')).importFrom));
  command(kept, 'rm <digests...>', 'remove; the start of a digest is enough', 'rekindle snapshots rm 3245c7 9f00a1')
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./snapshots.ts')).remove));
  command(kept, 'prune', "remove what the workloads' retention no longer wants", 'rekindle snapshots prune --keep 1')
    .option(...FILE)
    .option('--keep <n>', 'snapshots per workload, instead of what the file says', wholeNumber)
    .option(...JSON_FLAG)
    .action(does(async () => (await import('./snapshots.ts')).prune));
}

async function examine(
  context: Context,
  options: { readonly workload?: string; readonly file: string; readonly cluster?: boolean; readonly json?: boolean },
): Promise<void> {
  if (options.cluster === true && options.workload !== undefined)
    throw new RekindleError('usage', '--workload is of rekindle.yaml and --cluster of none: give one of them');
  if (options.cluster === true) {
    const { doctorCluster } = await import('./doctor-cluster.ts');
    context.exitCode = await doctorCluster(context, options.json ?? false);
    return;
  }
  const [{ doctor }, { readWorkload }, { exec }] = await Promise.all([
    import('./doctor.ts'),
    import('./context.ts'),
    import('../lib/exec.ts'),
  ]);
  const workload = options.workload === undefined ? undefined : await readWorkload(options.file, options.workload);
  context.exitCode = await doctor({
    config: context.config,
    exec,
    json: options.json ?? false,
    ...(workload === undefined ? {} : { workload }),
  });
}
