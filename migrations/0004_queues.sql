-- Queues: what they allow is changed at run time, by the code that declares them, by people and by scripts.

-- Raises on what is no setting, or has no such value: a slip of the pen is not ignored.
create function {schema}.check_queue_settings(settings jsonb) returns void language plpgsql immutable as $$
declare
    setting record;
    numbers constant text[] := array['concurrency', 'worker_concurrency', 'per_partition', 'rate_limit', 'rate_burst',
                                     'partition_rate_limit', 'partition_rate_burst', 'max_depth'];
    periods constant text[] := array['rate_per', 'partition_rate_per'];
begin
    if jsonb_typeof(settings) <> 'object' then
        raise exception using errcode = 'DD005',
            message = 'the settings of a queue are a JSON object: {"concurrency": 5}';
    end if;
    for setting in select * from jsonb_each(settings) loop
        if setting.key <> all(numbers || periods) then
            raise exception using errcode = 'DD005', message = format('a queue has no setting %L', setting.key),
                hint = 'settings: ' || array_to_string(numbers || periods, ', ');
        end if;
        if setting.key = any(numbers) and setting.value <> 'null'
           and (jsonb_typeof(setting.value) <> 'number' or setting.value::numeric % 1 <> 0
                or setting.value::numeric not between 1 and 1000000) then
            raise exception using errcode = 'DD005', message = format(
                '%s of a queue is a whole number from 1 to 1000000, or null for no limit; got %s',
                setting.key, setting.value);
        end if;
        if setting.key = any(periods) and setting.value <> 'null'
           and not (setting.value #>> '{}')::interval between interval '1 ms' and interval '366 days' then
            raise exception using errcode = 'DD005', message = format(
                '%s of a queue is a time from 1 ms to 366 days, in seconds or as an interval; got %s',
                setting.key, setting.value);
        end if;
    end loop;
end $$;

-- Changes what a queue allows: only the settings that are named; null takes a limit away.
create function {schema}.set_queue(name text, settings jsonb) returns void language plpgsql volatile as $$
#variable_conflict use_column
declare
    q {schema}.queue%rowtype;
begin
    perform {schema}.check_queue_settings(settings);
    select x.* into q from {schema}.queue x where x.name = set_queue.name for update;
    if not found then
        perform {schema}.unknown_queue(set_queue.name);
    end if;
    q := jsonb_populate_record(q, settings);
    if (q.rate_limit is null) <> (q.rate_per is null)
       or (q.partition_rate_limit is null) <> (q.partition_rate_per is null) then
        raise exception using errcode = 'DD005', message = format(
            'a rate of queue %L needs both its limit and its period: {"rate_limit": 100, "rate_per": 60}',
            set_queue.name);
    end if;
    update {schema}.queue x
       set concurrency = q.concurrency, worker_concurrency = q.worker_concurrency, per_partition = q.per_partition,
           rate_limit = q.rate_limit, rate_per = q.rate_per, rate_burst = q.rate_burst,
           partition_rate_limit = q.partition_rate_limit, partition_rate_per = q.partition_rate_per,
           partition_rate_burst = q.partition_rate_burst, max_depth = q.max_depth, updated_at = clock_timestamp()
     where x.name = set_queue.name;
    insert into {schema}.audit (action, detail)
        values ('set_queue', jsonb_build_object('queue', set_queue.name, 'settings', settings));
end $$;

comment on function {schema}.set_queue is
    'Changes what a queue allows: select dbdurable.set_queue(''orders'', ''{"concurrency": 5, "max_depth": null}'')';

-- What the code says of a queue; applied when the code says something else than last time, so that a deploy
-- does not undo what was changed at run time.
create function {schema}.declare_queue(name text, settings jsonb) returns void language plpgsql volatile as $$
#variable_conflict use_column
declare
    last jsonb;
begin
    insert into {schema}.queue (name) values (declare_queue.name) on conflict do nothing;
    select q.declared into last from {schema}.queue q where q.name = declare_queue.name;
    if settings is null or last is not distinct from settings then
        return;
    end if;
    select q.declared into last from {schema}.queue q where q.name = declare_queue.name for update;
    if last is distinct from settings then
        perform {schema}.set_queue(declare_queue.name,
            (select coalesce(jsonb_object_agg(k, null), '{}')
               from jsonb_object_keys(coalesce(last, '{}')) k) || settings);
        update {schema}.queue q set declared = settings where q.name = declare_queue.name;
    end if;
end $$;

create function {schema}.switch_queue(name text, paused boolean) returns void language plpgsql volatile as $$
begin
    update {schema}.queue q
       set paused = switch_queue.paused, updated_at = clock_timestamp() where q.name = switch_queue.name;
    if not found then
        perform {schema}.unknown_queue(switch_queue.name);
    end if;
    insert into {schema}.audit (action, detail)
        values (case when switch_queue.paused then 'pause_queue' else 'resume_queue' end,
                jsonb_build_object('queue', switch_queue.name));
end $$;

-- Nothing more of this queue is claimed until it is resumed; what runs goes on.
create function {schema}.pause_queue(name text) returns void language sql volatile as $$
    select {schema}.switch_queue(name, true);
$$;

create function {schema}.resume_queue(name text) returns void language sql volatile as $$
    select {schema}.switch_queue(name, false);
$$;

-- Tokens of a bucket by now: it fills by "limit" a period, up to "burst".
create function {schema}.bucket(
    tokens double precision, refilled_at timestamptz, rate_limit integer, rate_per interval, burst integer
) returns double precision language sql volatile as $$
    select least(burst, coalesce(tokens + rate_limit * extract(epoch from clock_timestamp() - refilled_at)
                                          / extract(epoch from rate_per), burst))::double precision
$$;

-- One element of start_many.
create type {schema}.starting as (
    place bigint, name text, input json, key text, queue text, id uuid, priority integer, delay interval,
    at timestamptz, expires interval, partition text, timeout interval, attributes jsonb, max_attempts integer,
    cost integer, registered boolean, known_queue boolean, key_reuse boolean
);

-- The elements of start_many with what is left out filled in.
create function {schema}.starts_of(starts json) returns setof {schema}.starting language sql volatile as $$
    select x.place, x.name, coalesce(x.input, '{}'), x.key, coalesce(x.queue, d.queue, 'default'),
           coalesce(x.id, {schema}.uuid7()), coalesce(x.priority, 0), x.delay, x.at, x.expires,
           coalesce(x.partition, ''), coalesce(x.timeout, d.timeout), x.attributes,
           coalesce(x.max_attempts, d.max_attempts, 20), coalesce(x.cost, 1),
           coalesce(x.registered, false) or d.name is not null, coalesce(x.known_queue, false) or x.queue is null,
           coalesce(x.key_reuse, false)
      from rows from (json_to_recordset(starts) as (
               name text, input json, key text, queue text, id uuid, priority integer, delay interval, at timestamptz,
               expires interval, partition text, timeout interval, attributes jsonb, max_attempts integer,
               cost integer, registered boolean, known_queue boolean, key_reuse boolean)) with ordinality
           as x(name, input, key, queue, id, priority, delay, at, expires, partition, timeout, attributes,
                max_attempts, cost, registered, known_queue, key_reuse, place)
      left join {schema}.definition d on d.name = x.name
$$;

-- Takes the keys of those that have one, in one order, so that two such calls cannot wait for each other: who holds
-- each, by place. Null: it has no key.
create function {schema}.take_keys(xs {schema}.starting[]) returns uuid[] language plpgsql volatile as $$
#variable_conflict use_column
declare
    wrong record;
begin
    if exists (select from unnest(xs) x where x.key_reuse) then
        perform from {schema}.workflow_key k
          where (k.name, k.key) in (select x.name, x.key from unnest(xs) x where x.key_reuse)
          order by k.name, k.key for update;
        delete from {schema}.workflow_key k using unnest(xs) x, {schema}.workflow w
         where x.key_reuse and k.name = x.name and k.key = x.key and w.id = k.workflow_id
           and w.status in ('succeeded', 'failed', 'cancelled')
           and not exists (select from unnest(xs) y where y.id = w.id);
    end if;
    insert into {schema}.workflow_key (name, key, workflow_id, input_hash)
    select x.name, x.key, x.id, sha256(convert_to(x.input::jsonb::text, 'UTF8'))
      from unnest(xs) x where x.key is not null order by x.name, x.key, x.place
        on conflict do nothing;
    select x.place, x.name, x.key, k.workflow_id into wrong
      from unnest(xs) x join {schema}.workflow_key k on k.name = x.name and k.key = x.key
     where k.input_hash <> sha256(convert_to(x.input::jsonb::text, 'UTF8')) order by x.place limit 1;
    if found then
        raise exception using errcode = 'DD003', message = format(
            'key %L already started %s with other arguments (workflow %s, start %s)',
            left(wrong.key, 200), wrong.name, wrong.workflow_id, wrong.place);
    end if;
    return (select array_agg(k.workflow_id order by x.place)
              from unnest(xs) x left join {schema}.workflow_key k on k.name = x.name and k.key = x.key);
end $$;

-- Raises what is wrong with the first of them that cannot be started.
create function {schema}.refuse_starts(xs {schema}.starting[]) returns void language plpgsql stable as $$
declare
    wrong record;
begin
    select x.* into wrong from unnest(xs) x
     where x.name is null or not x.registered or json_typeof(x.input) not in ('object', 'array')
        or x.cost < 0 or x.delay < interval '0' or x.expires <= interval '0' or x.timeout < interval '0'
     order by x.place limit 1;
    raise exception using
        errcode = case when wrong.name is not null and not wrong.registered then 'DD004' else 'DD005' end,
        message = case
            when wrong.name is null then format('start %s has no name', wrong.place)
            when not wrong.registered then
                format('no executor has registered a workflow named %L (start %s)', left(wrong.name, 200), wrong.place)
            when json_typeof(wrong.input) not in ('object', 'array') then
                format('the input of start %s must be a JSON object (arguments by name) or an array', wrong.place)
            else format('cost, delay, expires and timeout of start %s cannot be negative', wrong.place) end;
end $$;

-- Starts many workflows in the caller's transaction, a few statements for all of them: all or none. Each element
-- names arguments of start(); delay, expires and timeout are seconds or intervals. The ids come in the order of the
-- elements. The elements are read once, since that costs more than to write the rows, and nothing is asked that the
-- first statement can tell.
create function {schema}.start_many(starts json) returns table (place bigint, id uuid) language plpgsql volatile as $$
#variable_conflict use_column
declare
    created timestamptz := clock_timestamp();
    xs      {schema}.starting[];
    fresh   {schema}.starting[];
    begun   uuid[];
    holders uuid[];
    wrong   boolean;
    keyed   boolean;
    timed   boolean;
    queued  record;
begin
    if json_typeof(starts) <> 'array' then
        raise exception using errcode = 'DD005',
            message = 'start_many takes a JSON array of starts: [{"name": "mail", "input": {"to": "x"}}]';
    end if;
    -- The cast refuses what views could not show as jsonb, such as NUL characters.
    select array_agg(x order by x.place), bool_or(x.key is not null),
           bool_or(x.at is not null or x.delay is not null or x.expires is not null or x.timeout is not null),
           bool_or(x.name is null or not x.registered or json_typeof(x.input) not in ('object', 'array')
                   or x.cost < 0 or x.delay < interval '0' or x.expires <= interval '0' or x.timeout < interval '0'
                   or x.input::text like '%\\u%' and x.input::jsonb is null)
      into xs, keyed, timed, wrong from {schema}.starts_of(starts) x;
    if wrong then
        perform {schema}.refuse_starts(xs);
    end if;
    for queued in select x.queue, count(*)::integer as many, bool_and(x.known_queue) as known
                    from unnest(xs) x group by 1 order by 1 loop
        perform {schema}.admit(queued.queue, queued.many, queued.known);
    end loop;
    fresh := xs;
    if keyed then
        holders := {schema}.take_keys(xs);
        fresh := array(select x from unnest(xs) x where x.key is null or holders[x.place] = x.id order by x.place);
    end if;
    with w as (
        insert into {schema}.workflow (
            id, name, queue, partition, priority, max_attempts, key, created_at, deadline, expires_at, cost,
            attributes, input, status, epoch, attempt)
        select f.id, f.name, f.queue, f.partition, f.priority, f.max_attempts, f.key, created, created + f.timeout,
               created + f.expires, nullif(f.cost, 1), f.attributes, f.input, 'queued', 0, 1
          from unnest(fresh) f order by f.place
        on conflict do nothing returning workflow.id)
    select array_agg(w.id) into begun from w;
    if cardinality(begun) is distinct from cardinality(fresh) then  -- sent again: the rest is there
        -- "is true" keeps the planner from a join of all with all, where others are switched off.
        fresh := array(select f from unnest(fresh) f where (f.id in (select unnest(begun))) is true order by f.place);
    end if;
    if timed then
        insert into {schema}.wait (workflow_id, path, kind, due)
        select f.id, t.path, t.kind::{schema}.wait_kind, t.due
          from unnest(fresh) f
         cross join lateral (values
               ('', 'start', nullif(greatest(coalesce(f.at, created + f.delay), created), created)),
               ('!', 'expiry', created + f.expires),
               ('~', 'deadline', created + f.timeout)) as t(path, kind, due)
         where t.due is not null;
    end if;
    insert into {schema}.ready (queue, partition, rank, workflow_id, name)
    select f.queue, case when f.partition = '' then '' else {schema}.ticket_partition(f.queue, f.partition) end,
           2 * f.priority + 1, f.id, f.name
      from unnest(fresh) f
     where f.at is null and f.delay is null or coalesce(f.at, created + f.delay) <= created order by f.place;
    return query select x.place, coalesce(holders[x.place], x.id) from unnest(xs) x order by x.place;
end $$;

comment on function {schema}.start_many is
    'Starts many workflows, all or none: '
    'select * from dbdurable.start_many(''[{"name": "mail", "input": {"to": "x"}}]'')';
