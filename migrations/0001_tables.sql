-- The tables of dbdurable. {schema} is replaced by the quoted schema name when this file is applied.
-- Tables may change between releases; the views of 0003 are the contract for people who query.

create type {schema}.status as enum
    ('queued', 'running', 'waiting', 'paused', 'blocked', 'succeeded', 'failed', 'cancelled');

create type {schema}.step_kind as enum
    ('step', 'transaction', 'child', 'start', 'sleep', 'recv', 'send', 'event', 'get_event', 'promise', 'join',
     'value');

create type {schema}.wait_kind as enum
    ('start', 'expiry', 'deadline', 'timeout', 'retry', 'sleep', 'message', 'event', 'result');

-- One narrow row an execution. Columns that never change come first, input included: an update then
-- repeats them as a common prefix in the WAL record. No index holds a column that changes, so updates
-- are heap-only; fillfactor leaves the room they need on the page.
create table {schema}.workflow (
    id           uuid primary key,
    name         text not null,
    queue        text not null,
    partition    text not null,
    priority     smallint not null,
    max_attempts smallint not null,
    parent_id    uuid,
    parent_policy text,
    key          text,
    created_at   timestamptz not null,
    deadline     timestamptz,
    expires_at   timestamptz,
    cost         integer,
    attributes   jsonb,
    input        json not null,
    -- from here on: columns that change
    status       {schema}.status not null,
    epoch        integer not null,
    executor_id  uuid,
    attempt      smallint not null,
    interrupt    text,
    slots        text[],
    started_at   timestamptz,
    finished_at  timestamptz,
    output       json,
    error        json
) with (fillfactor = 40);

comment on table {schema}.workflow is 'One row an execution of a workflow; query the view "workflows" instead.';

-- The caller's name for "the same start": unique without touching the hot row.
create table {schema}.workflow_key (
    name        text not null,
    key         text not null,
    workflow_id uuid not null,
    input_hash  bytea not null,
    primary key (name, key)
);

-- What executors have registered: the defaults of a start by name (SQL, other services).
create table {schema}.definition (
    name         text primary key,
    queue        text not null,
    max_attempts smallint not null,
    timeout      interval,
    updated_at   timestamptz not null default clock_timestamp()
);

-- Tickets: a row exists only while somebody should claim; deleted by the claim, by ctid.
create table {schema}.ready (
    queue       text not null,
    partition   text not null,
    rank        integer not null,
    at          timestamptz not null default clock_timestamp(),
    wake        boolean not null default false,
    workflow_id uuid not null,
    name        text not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

create index ready_order on {schema}.ready (queue, partition, rank, at);

-- The journal: append-only, no secondary index, no foreign key.
create table {schema}.step (
    workflow_id uuid not null,
    path        text collate "C" not null,
    seq         integer not null,
    kind        {schema}.step_kind not null,
    name        text not null,
    attempts    smallint not null,
    epoch       integer not null,
    started_at  timestamptz not null,
    finished_at timestamptz not null,
    output      json,
    error       json,
    primary key (workflow_id, path)
);

comment on table {schema}.step is 'The recorded steps of each workflow; query the view "steps" instead.';

-- One row a process life. A missing row, or one that has expired, is dead.
create table {schema}.executor (
    id            uuid primary key,
    expires_at    timestamptz not null,
    session_pid   integer,
    session_start timestamptz,
    started_at    timestamptz not null default clock_timestamp(),
    names         text[] not null,
    queues        text[] not null,
    host          text not null,
    pid           integer not null,
    version       text not null
) with (fillfactor = 50);

-- Which workflows an executor holds: running means that the id is in a row here, written in the same statement.
create table {schema}.lease (
    executor_id uuid not null,
    batch       bigint not null,
    ids         uuid[] not null,
    primary key (executor_id, batch)
);

-- Everything that a workflow waits for; kept over wakes, so that a deadline is never forgotten. What is
-- due gets a ticket once: "rung" says that it has one, "due" stays until the outcome is recorded.
create table {schema}.wait (
    workflow_id uuid not null,
    path        text collate "C" not null,
    kind        {schema}.wait_kind not null,
    subject     text collate "C" not null default '',
    due         timestamptz,
    rung        boolean not null default false,
    remaining   interval,
    attempts    smallint not null default 0,
    created_at  timestamptz not null default clock_timestamp(),
    primary key (workflow_id, path)
);

create index wait_subject on {schema}.wait (kind, subject);
-- What rings, in the order of ringing; and what ends a workflow by the clock, which is looked for by itself.
create index wait_due on {schema}.wait (due, workflow_id)
    where due is not null and not rung and kind not in ('expiry', 'deadline');
create index wait_end on {schema}.wait (kind, due) where due is not null and kind in ('expiry', 'deadline');

-- Paused, blocked and failed workflows: lists without an index on status. "holds": it was paused while it held
-- something of its queue's limits, which an executor gives back.
create table {schema}.attention (
    workflow_id uuid primary key,
    status      {schema}.status not null,
    reason      text not null,
    version     text,
    since       timestamptz not null default clock_timestamp(),
    holds       boolean not null default false
);

create index attention_since on {schema}.attention (since);
create index attention_holds on {schema}.attention (workflow_id) where holds;

-- Workflows that were cancelled, or have ended, and whose children are still to be: one a transaction, by any
-- executor. "epoch" is the last one whose children are meant: what clean-up starts is left alone.
create table {schema}.cascade (
    workflow_id uuid not null,
    ended       boolean not null,
    epoch       integer not null,
    reason      text not null,
    at          timestamptz not null default clock_timestamp(),
    primary key (workflow_id, ended)
);

create table {schema}.message (
    workflow_id uuid not null,
    id          uuid not null,
    topic       text not null,
    at          timestamptz not null default clock_timestamp(),
    body        json,
    primary key (workflow_id, id)
);

-- Keys of messages that were sent: kept when the message has been read.
create table {schema}.message_key (
    workflow_id uuid not null,
    topic       text not null,
    key         text not null,
    primary key (workflow_id, topic, key)
);

create index message_order on {schema}.message (workflow_id, topic, at, id);

create table {schema}.event (
    workflow_id uuid not null,
    name        text not null,
    at          timestamptz not null default clock_timestamp(),
    value       json,
    primary key (workflow_id, name)
);

create table {schema}.stream (
    workflow_id uuid not null,
    name        text not null,
    seq         bigint not null,
    at          timestamptz not null default clock_timestamp(),
    value       json,
    primary key (workflow_id, name, seq)
);

-- What a queue allows; null is no limit. "declared" is what the code said last: a deploy that says the same
-- leaves alone what was changed at run time.
create table {schema}.queue (
    name                 text primary key,
    concurrency          integer,
    worker_concurrency   integer,
    per_partition        integer,
    rate_limit           integer,
    rate_per             interval,
    rate_burst           integer,
    partition_rate_limit integer,
    partition_rate_per   interval,
    partition_rate_burst integer,
    max_depth            integer,
    paused               boolean not null default false,
    declared             jsonb,
    updated_at           timestamptz not null default clock_timestamp(),
    limited              boolean not null generated always as (
        concurrency is not null or per_partition is not null or rate_limit is not null
        or partition_rate_limit is not null) stored,
    partitioned          boolean not null generated always as (
        per_partition is not null or partition_rate_limit is not null) stored
);

comment on table {schema}.queue is 'What each queue allows; change it with set_queue, pause_queue and resume_queue.';

-- What is taken of a limit: one row for a queue as a whole (partition ''), one a partition. "used" changes
-- only together with the status of the workflow whose "slots" name the row: exact, whoever crashes.
create table {schema}.limit_key (
    queue       text not null,
    partition   text not null,
    used        integer not null default 0,
    tokens      double precision,
    refilled_at timestamptz not null default clock_timestamp(),
    primary key (queue, partition)
) with (fillfactor = 50);

create table {schema}.schedule (
    name       text primary key,
    cron       text not null,
    timezone   text not null default 'UTC',
    workflow   text not null,
    input      json not null,
    queue      text not null,
    catch_up   text not null default 'one',
    paused     boolean not null default false,
    watermark  timestamptz not null,
    next_at    timestamptz,
    updated_at timestamptz not null default clock_timestamp()
);

create table {schema}.audit (
    id          bigint generated always as identity primary key,
    at          timestamptz not null default clock_timestamp(),
    actor       text not null default current_user,
    action      text not null,
    workflow_id uuid,
    detail      jsonb
);
