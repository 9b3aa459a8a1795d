-- What a client does, as functions: psql, other languages, triggers, and dbdurable's own Client call these.
-- Errors carry a private SQLSTATE: DD001 fenced, DD002 torn transaction, DD003 key conflict,
-- DD004 unknown name, DD005 bad argument, DD006 unknown workflow, DD007 queue full, DD008 unknown queue;
-- DD011 to DD013 stand in 0005.

-- Raises inside the transaction of a step whose workflow has another owner or epoch by now. It has to
-- raise rather than return no row: COMMIT is already on the wire behind it, and must abort.
create function {schema}.fenced() returns integer language plpgsql volatile as $$
begin
    raise exception using errcode = 'DD001',
        message = 'fenced: this workflow was taken over, cancelled or paused';
end $$;

-- Raises when a step's transaction is not the one that began it: the step ran COMMIT or ROLLBACK as SQL.
create function {schema}.torn() returns text language plpgsql volatile as $$
begin
    raise exception using errcode = 'DD002',
        message = 'the step ended its own transaction: its record and its writes would not commit together';
end $$;

-- UUID version 7 from the database's clock (uuidv7() exists from PostgreSQL 18 on only).
create function {schema}.uuid7() returns uuid language sql volatile as $$
    select encode(
        set_byte(
            overlay(uuid_send(gen_random_uuid())
                placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                from 1 for 6),
            6, 112 | (get_byte(uuid_send(gen_random_uuid()), 6) & 15)),
        'hex')::uuid
$$;

-- Where a ticket lies: by its workflow's partition if something is limited by it in that queue, else together
-- with all others, so that a claim walks them in one order.
create function {schema}.ticket_partition(queue text, partition text) returns text language sql stable as $$
    select case when exists (select from {schema}.queue q where q.name = ticket_partition.queue and q.partitioned)
           then ticket_partition.partition else '' end
$$;

-- Raises, with the names that there are.
create function {schema}.unknown_queue(name text) returns void language plpgsql stable as $$
begin
    raise exception using errcode = 'DD008',
        message = format('there is no queue named %L', left(unknown_queue.name, 200)),
        hint = coalesce(
            'queues: ' || (select string_agg(n.name, ', ')
                             from (select q.name from {schema}.queue q order by q.name limit 20) n),
            'no executor has connected to this schema yet');
end $$;

-- Refuses what a queue does not take: a name that neither an executor nor the caller's code knows, and work
-- beyond its max_depth. Looks at max_depth tickets at most, so a large bound makes starts a little slower.
create function {schema}.admit(queue text, many integer, known boolean) returns void language plpgsql stable as $$
#variable_conflict use_column
declare
    max_depth integer;
    depth     integer;
begin
    select q.max_depth into max_depth from {schema}.queue q where q.name = admit.queue;
    if not found and not admit.known then
        perform {schema}.unknown_queue(admit.queue);
    end if;
    if max_depth is not null then
        select count(*) into depth
          from (select from {schema}.ready r where r.queue = admit.queue limit max_depth) as found;
        if depth + admit.many > max_depth then
            raise exception using errcode = 'DD007', message = format(
                'queue %L is full: %s workflows are ready in it and it takes %s', admit.queue, depth, max_depth);
        end if;
    end if;
end $$;

-- Starts a workflow in the caller's transaction: it exists if and only if that commits. With a key it
-- starts once per (name, key): later calls return the first id, or raise when the arguments differ. With
-- "key_reuse" the key is free again once the workflow that holds it has ended. "registered" says that the
-- caller vouches for the name (its code has the function), "known_queue" likewise.
create function {schema}.start(
    name         text,
    input        json        default '{}',
    key          text        default null,
    queue        text        default null,
    id           uuid        default null,
    priority     integer     default 0,
    delay        interval    default null,
    at           timestamptz default null,
    expires      interval    default null,
    partition    text        default '',
    timeout      interval    default null,
    attributes   jsonb       default null,
    max_attempts integer     default null,
    parent_id    uuid        default null,
    input_hash   bytea       default null,
    registered   boolean     default false,
    known_queue  boolean     default false,
    cost         integer     default 1,
    key_reuse    boolean     default false,
    parent_close text        default null
) returns uuid language plpgsql volatile as $$
#variable_conflict use_column
declare
    known     {schema}.definition%rowtype;
    new_id    uuid := coalesce(start.id, {schema}.uuid7());
    held      record;
    hash      bytea;
    created   timestamptz := clock_timestamp();
    due       timestamptz := coalesce(start.at, created + start.delay);
    deadline  timestamptz;
    place     text;
begin
    select d.* into known from {schema}.definition d where d.name = start.name;
    if not found and not start.registered then
        raise exception using errcode = 'DD004',
            message = format('no executor has registered a workflow named %L', left(start.name, 200)),
            hint = coalesce(
                'known names: ' || (select string_agg(n.name, ', ')
                                      from (select d.name from {schema}.definition d order by d.name limit 20) n),
                'no executor has connected to this schema yet');
    end if;
    if json_typeof(start.input) not in ('object', 'array') then
        raise exception using errcode = 'DD005', message = format(
            'the input of workflow %L must be a JSON object (arguments by name) or an array, not a %s',
            start.name, json_typeof(start.input));
    end if;
    if start.cost < 0 or start.delay < interval '0' or start.expires <= interval '0'
       or start.timeout < interval '0' then
        raise exception using errcode = 'DD005', message = format(
            'cost, delay, expires and timeout of a start cannot be negative (workflow %L)', start.name);
    end if;
    if start.parent_close not in ('cancel', 'abandon') then
        raise exception using errcode = 'DD005', message = format(
            'parent_close is ''cancel'', ''abandon'' or null, not %L', left(start.parent_close, 80));
    end if;
    if not start.registered or start.key is not null then
        -- The cast also refuses what views could not show as jsonb, such as NUL characters.
        hash := coalesce(start.input_hash, sha256(convert_to(start.input::jsonb::text, 'UTF8')));
    end if;
    if start.key is not null then
        insert into {schema}.workflow_key (name, key, workflow_id, input_hash)
            values (start.name, start.key, new_id, hash) on conflict do nothing;
        if not found then
            -- A statement of its own, so that it sees a holder which committed while we waited for it.
            select k.workflow_id, k.input_hash into strict held
              from {schema}.workflow_key k where k.name = start.name and k.key = start.key;
            if start.key_reuse then
                update {schema}.workflow_key k set workflow_id = new_id, input_hash = hash
                  from {schema}.workflow w
                 where k.name = start.name and k.key = start.key and k.workflow_id = held.workflow_id
                   and w.id = k.workflow_id and w.id <> new_id and w.status in ('succeeded', 'failed', 'cancelled');
            end if;
            if not start.key_reuse or not found then
                -- Somebody else may have reused it just now.
                select k.workflow_id, k.input_hash into strict held
                  from {schema}.workflow_key k where k.name = start.name and k.key = start.key;
                if held.input_hash <> hash and held.workflow_id <> new_id then
                    raise exception using errcode = 'DD003', message = format(
                        'key %L already started %s with other arguments (workflow %s)',
                        left(start.key, 200), start.name, held.workflow_id);
                end if;
                return held.workflow_id;
            end if;
        end if;
    end if;
    place := coalesce(start.queue, known.queue, 'default');
    perform {schema}.admit(place, 1, start.known_queue or start.queue is null);
    deadline := created + coalesce(start.timeout, known.timeout);
    if start.parent_id is not null and start.parent_close is distinct from 'abandon' then
        deadline := least(deadline, (select p.deadline from {schema}.workflow p where p.id = start.parent_id));
    end if;
    insert into {schema}.workflow (
            id, name, queue, partition, priority, max_attempts, parent_id, parent_policy, key, created_at,
            deadline, expires_at, cost, attributes, input, status, epoch, attempt)
        values (
            new_id, start.name, place, start.partition, start.priority,
            coalesce(start.max_attempts, known.max_attempts, 20), start.parent_id, start.parent_close,
            start.key, created, deadline, created + start.expires, nullif(start.cost, 1),
            start.attributes, start.input, 'queued', 0, 1)
        on conflict do nothing;
    if not found then
        return new_id;      -- the same start, sent again after an answer that was lost
    end if;
    if due > created then
        insert into {schema}.wait (workflow_id, path, kind, due) values (new_id, '', 'start', due);
    else
        insert into {schema}.ready (queue, partition, rank, workflow_id, name)
            values (place,
                    case when start.partition = '' then '' else {schema}.ticket_partition(place, start.partition) end,
                    2 * start.priority + 1, new_id, start.name);
    end if;
    if deadline is not null then
        insert into {schema}.wait (workflow_id, path, kind, due) values (new_id, '~', 'deadline', deadline);
    end if;
    if start.expires is not null then
        insert into {schema}.wait (workflow_id, path, kind, due)
            values (new_id, '!', 'expiry', created + start.expires);
    end if;
    return new_id;
end $$;

comment on function {schema}.start is
    'Starts a workflow by name: select dbdurable.start(''checkout'', ''{"order_id": 46}'')';

-- What became of a workflow: one row, or an error when there is no such workflow.
create function {schema}.result(
    id uuid, out status {schema}.status, out output json, out error json, out reason text
) language plpgsql stable as $$
#variable_conflict use_column
begin
    select w.status, w.output, w.error, coalesce(a.reason, w.interrupt)
      into result.status, result.output, result.error, result.reason
      from {schema}.workflow w left join {schema}.attention a on a.workflow_id = w.id
     where w.id = result.id;
    if not found then
        raise exception using errcode = 'DD006', message = format('there is no workflow %s', result.id);
    end if;
end $$;

-- The row of a workflow, locked; waits for a step of it that is just committing.
create function {schema}.lock_workflow(id uuid) returns {schema}.workflow language plpgsql volatile as $$
declare
    w {schema}.workflow%rowtype;
begin
    select * into w from {schema}.workflow x where x.id = lock_workflow.id for no key update;
    if not found then
        raise exception using errcode = 'DD006', message = format('there is no workflow %s', lock_workflow.id);
    end if;
    return w;
end $$;

-- Puts a workflow back in its queue under a new epoch.
create function {schema}.requeue(w {schema}.workflow) returns void language sql volatile as $$
    update {schema}.workflow set status = 'queued', epoch = epoch + 1, executor_id = null where id = w.id;
    delete from {schema}.attention where workflow_id = w.id;
    insert into {schema}.ready (queue, partition, rank, workflow_id, name)
        values (w.queue, {schema}.ticket_partition(w.queue, w.partition), 2 * w.priority, w.id, w.name);
$$;

-- Cancels a workflow. Once this has committed, no database effect of the workflow commits. A running
-- one is fenced without a change of owner: its owner lets the body clean up. Returns the status.
create function {schema}.cancel(id uuid, reason text default '') returns text language plpgsql volatile as $$
#variable_conflict use_column
declare
    w {schema}.workflow%rowtype := {schema}.lock_workflow(cancel.id);
begin
    if w.status in ('succeeded', 'failed', 'cancelled') or w.interrupt is not null then
        return w.status;
    end if;
    insert into {schema}.audit (action, workflow_id, detail)
        values ('cancel', w.id, jsonb_build_object('reason', cancel.reason, 'status', w.status));
    if w.started_at is not null then
        insert into {schema}.cascade (workflow_id, ended, epoch, reason)
            values (w.id, w.status = 'blocked', w.epoch, cancel.reason) on conflict do nothing;
    end if;
    if w.status = 'running' then
        update {schema}.workflow x set epoch = x.epoch + 1, interrupt = cancel.reason where x.id = w.id;
        return 'running';
    end if;
    if w.started_at is null or w.status = 'blocked' then
        update {schema}.workflow x
           set status = 'cancelled', epoch = x.epoch + 1, interrupt = cancel.reason, finished_at = clock_timestamp()
         where x.id = w.id;
        delete from {schema}.wait where workflow_id = w.id;
        delete from {schema}.attention where workflow_id = w.id;
        return 'cancelled';
    end if;
    update {schema}.limit_key k set used = k.used - 1 where k.queue = w.queue and k.partition = any(w.slots);
    update {schema}.workflow x set interrupt = cancel.reason, slots = null where x.id = w.id;
    perform {schema}.requeue(w);
    return 'queued';
end $$;

-- Stops a workflow before its next record, until it is resumed. Returns the status. What it holds of its
-- queue's limits is given back by an executor a moment later: a transaction of the caller's that stays open
-- must not hold the row that all claims of the queue need.
create function {schema}.pause(id uuid) returns text language plpgsql volatile as $$
#variable_conflict use_column
declare
    w {schema}.workflow%rowtype := {schema}.lock_workflow(pause.id);
begin
    if w.status not in ('queued', 'running', 'waiting') then
        return w.status;
    end if;
    insert into {schema}.audit (action, workflow_id, detail)
        values ('pause', w.id, jsonb_build_object('status', w.status));
    update {schema}.workflow x set status = 'paused', epoch = x.epoch + 1, executor_id = null where x.id = w.id;
    update {schema}.wait set remaining = due - clock_timestamp(), due = null
     where workflow_id = w.id and due is not null;
    insert into {schema}.attention (workflow_id, status, reason, holds)
        values (w.id, 'paused', 'paused by ' || current_user, w.slots is not null)
        on conflict (workflow_id) do update set status = excluded.status, reason = excluded.reason,
            since = excluded.since, holds = excluded.holds;
    return 'paused';
end $$;

-- Lets a paused, blocked or failed workflow go on. What failed last is tried again: when the last record
-- of a failed workflow is the error of a step, that record is removed (the audit keeps it).
create function {schema}.resume(id uuid) returns text language plpgsql volatile as $$
#variable_conflict use_column
declare
    w {schema}.workflow%rowtype := {schema}.lock_workflow(resume.id);
    removed jsonb;
begin
    if w.status not in ('paused', 'blocked', 'failed') then
        return w.status;
    end if;
    if w.status = 'failed' then
        with gone as (
            delete from {schema}.step s where s.workflow_id = w.id and s.error is not null
               and s.seq = (select max(x.seq) from {schema}.step x where x.workflow_id = w.id)
            returning s.path, s.name, s.error)
        select jsonb_agg(to_jsonb(gone)) into removed from gone;
    end if;
    insert into {schema}.audit (action, workflow_id, detail)
        values ('resume', w.id, jsonb_build_object('status', w.status, 'removed', removed));
    update {schema}.wait
       set due = clock_timestamp() + remaining, rung = false, remaining = null
     where workflow_id = w.id and remaining is not null;
    if w.status = 'failed' and w.deadline is not null and w.interrupt is null then
        -- It has its whole time again.
        insert into {schema}.wait (workflow_id, path, kind, due)
            values (w.id, '~', 'deadline', clock_timestamp() + (w.deadline - w.created_at)) on conflict do nothing;
    end if;
    update {schema}.workflow x set deadline = t.due
      from {schema}.wait t where x.id = w.id and t.workflow_id = w.id and t.path = '~';
    update {schema}.limit_key k set used = k.used - 1 where k.queue = w.queue and k.partition = any(w.slots);
    update {schema}.workflow x
       set attempt = 1, finished_at = null, error = null, output = null, slots = null
     where x.id = w.id;
    if w.epoch = 0 or not exists (
            select from {schema}.wait where workflow_id = w.id and kind = 'start') then
        perform {schema}.requeue(w);
    else
        update {schema}.workflow x set status = 'queued', executor_id = null where x.id = w.id;
        delete from {schema}.attention where workflow_id = w.id;
    end if;
    return 'queued';
end $$;
