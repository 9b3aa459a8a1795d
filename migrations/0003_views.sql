-- The contract for people who query with SQL: these columns stay, whatever the tables become.

create view {schema}.workflows as
select w.id,
       w.name,
       w.status::text                          as status,
       coalesce(a.reason, w.interrupt)         as reason,
       w.key,
       w.queue,
       w.priority,
       w.partition,
       w.input::jsonb                          as input,
       w.output::jsonb                         as output,
       w.error ->> 'type'                      as error_type,
       w.error ->> 'message'                   as error_message,
       w.attributes,
       w.attempt,
       w.max_attempts,
       w.parent_id,
       w.created_at,
       w.deadline,
       w.started_at,
       w.finished_at,
       w.finished_at - w.started_at            as duration,
       e.host || ':' || e.pid                  as executor,
       w.epoch,
       p.value::jsonb                          as progress
  from {schema}.workflow w
  left join {schema}.attention a on a.workflow_id = w.id
  left join {schema}.executor e on e.id = w.executor_id and w.status = 'running'
  left join {schema}.event p on p.workflow_id = w.id and p.name = '!progress';

comment on view {schema}.workflows is 'One row an execution of a workflow.';
comment on column {schema}.workflows.status is
    'queued, running, waiting, paused, blocked (the code no longer fits the recorded steps), succeeded, failed or '
    'cancelled';
comment on column {schema}.workflows.reason is 'Why it is paused, blocked, failed or cancelled, in words';
comment on column {schema}.workflows.key is 'The caller''s name for "the same start": unique per workflow name';
comment on column {schema}.workflows.input is 'Arguments by name: input ->> ''order_id''';
comment on column {schema}.workflows.output is 'What it returned, once it has succeeded';
comment on column {schema}.workflows.attempt is
    'How many processes in a row it was taken from without progress, plus one; failed above max_attempts';
comment on column {schema}.workflows.executor is 'host:pid of the process that runs it now';
comment on column {schema}.workflows.progress is 'What it said last by progress(done, total, text)';
comment on column {schema}.workflows.epoch is 'Grows at every change of owner: only the newest may write';

create view {schema}.steps as
select s.workflow_id,
       s.path,
       s.seq,
       s.name,
       s.kind::text                     as kind,
       case when s.error is null then 'succeeded' else 'failed' end as status,
       s.output::jsonb                  as output,
       s.error ->> 'type'               as error_type,
       s.error ->> 'message'            as error_message,
       s.attempts,
       s.started_at,
       s.finished_at,
       s.finished_at - s.started_at     as duration,
       s.epoch
  from {schema}.step s;

comment on view {schema}.steps is 'The recorded steps (the journal) of each workflow; order by seq.';
comment on column {schema}.steps.path is 'Position in the workflow: 3, or 3.1 for the first call in its third branch';
comment on column {schema}.steps.kind is 'transaction: committed together with its own writes; step: at least once';

create view {schema}.failures as
select w.id, w.name, a.status::text as status, a.reason, a.since,
       w.error ->> 'type' as error_type, w.error ->> 'message' as error_message,
       w.key, w.queue, w.input::jsonb as input, w.attempt, w.created_at
  from {schema}.attention a join {schema}.workflow w on w.id = a.workflow_id
 where a.status in ('failed', 'blocked', 'running');

comment on view {schema}.failures is
    'Workflows that failed or are blocked, or that run a compensation which keeps failing. '
    'select dbdurable.resume(id) lets one go on after the cause is mended.';

create view {schema}.executors as
select e.id, e.host, e.pid, e.version, e.started_at, e.names, e.queues,
       e.expires_at > clock_timestamp() as alive, e.expires_at,
       (select count(*) from {schema}.lease l, unnest(l.ids) i(id) join {schema}.workflow w on w.id = i.id
         where l.executor_id = e.id and w.executor_id = e.id and w.status = 'running') as running
  from {schema}.executor e;

comment on view {schema}.executors is 'The processes that claim and run workflows.';

create view {schema}.queues as
select q.name, q.paused,
       (select count(*) from {schema}.ready r where r.queue = q.name) as ready,
       (select min(r.at) from {schema}.ready r where r.queue = q.name) as oldest,
       (select count(*) from {schema}.lease l, unnest(l.ids) i(id) join {schema}.workflow w on w.id = i.id
         where w.executor_id = l.executor_id and w.status = 'running' and w.queue = q.name) as running,
       (select count(*) from {schema}.wait t join {schema}.workflow w on w.id = t.workflow_id
         where t.kind = 'start' and w.queue = q.name) as delayed,
       k.used,
       q.concurrency, q.worker_concurrency, q.per_partition,
       q.rate_limit, q.rate_per, q.rate_burst,
       q.partition_rate_limit, q.partition_rate_per, q.partition_rate_burst,
       q.max_depth, q.updated_at
  from {schema}.queue q
  left join {schema}.limit_key k on k.queue = q.name and k.partition = '' and q.concurrency is not null;

comment on view {schema}.queues is
    'Each queue: what is ready in it and how long, what runs, and its limits. Change them with set_queue.';
comment on column {schema}.queues.ready is 'Workflows that an executor may claim now';
comment on column {schema}.queues.oldest is 'Since when the oldest of them has been ready';
comment on column {schema}.queues.delayed is 'Workflows whose start is due later';
comment on column {schema}.queues.used is 'How much of "concurrency" is taken';

-- Work that no living executor takes: its name or its queue is not registered by any.
create view {schema}.unclaimable as
select r.queue, r.name, count(*) as workflows, min(r.at) as oldest,
       case when exists (select from {schema}.executor e
                          where e.expires_at > clock_timestamp() and r.name = any(e.names))
            then 'no living executor serves this queue and has this workflow: start one with this queue'
            else 'no living executor has a workflow of this name: start one that does, or cancel these' end as reason
  from {schema}.ready r
 where not exists (select from {schema}.executor e
                    where e.expires_at > clock_timestamp() and r.name = any(e.names) and r.queue = any(e.queues))
 group by r.queue, r.name;

comment on view {schema}.unclaimable is 'Ready work that no living executor takes, and why.';
