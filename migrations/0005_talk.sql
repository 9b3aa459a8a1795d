-- Messages and promises, for whoever is not a workflow: psql, triggers, other languages, and our own Client.
-- Whoever does not own the commit writes a wake ticket with the message, whatever the workflow does: the claim
-- drops it when nobody waits. More SQLSTATEs: DD011 the workflow has ended, DD012 no such promise, DD013 a
-- promise that was completed before.

-- Has a workflow looked at that may wait; the claim drops the ticket of one that does not.
create function {schema}.wake(id uuid) returns void language sql volatile as $$
    insert into {schema}.ready (queue, partition, rank, wake, workflow_id, name)
    select w.queue, {schema}.ticket_partition(w.queue, w.partition), 2 * w.priority, true, w.id, w.name
      from {schema}.workflow w where w.id = wake.id;
$$;

-- Raises unless messages of others may reach the workflow.
create function {schema}.check_open(id uuid) returns void language plpgsql stable as $$
#variable_conflict use_column
declare
    known record;
begin
    select w.name, w.status into known from {schema}.workflow w where w.id = check_open.id;
    if not found then
        raise exception using errcode = 'DD006', message = format('there is no workflow %s', check_open.id);
    end if;
    if known.status in ('succeeded', 'failed', 'cancelled') then
        raise exception using errcode = 'DD011', message = format(
            'workflow %s %s has ended (%s): nobody would read it', known.name, check_open.id, known.status);
    end if;
end $$;

-- Sends a message; the workflow gets it from recv(topic). It is kept until then. With a key it is sent once per
-- workflow, topic and key, also after it was read. False: it was sent before.
create function {schema}.send(id uuid, topic text, value json default 'null', idempotency_key text default null)
returns boolean language plpgsql volatile as $$
#variable_conflict use_column
begin
    if send.topic is null or send.topic !~ '^[[:alpha:]_]' or length(send.topic) > 200 then
        raise exception using errcode = 'DD005', message = format(
            'a topic is a name of at most 200 characters that starts with a letter or _, not %L', left(send.topic, 80));
    end if;
    -- Sent before: also where the workflow has read it and ended since. A step that runs again sends again.
    if exists (select from {schema}.message_key k where k.workflow_id = send.id and k.topic = send.topic
                                                    and k.key = send.idempotency_key) then
        return false;
    end if;
    perform {schema}.check_open(send.id);
    perform send.value::jsonb;      -- refuses what views could not show, such as NUL characters
    if send.idempotency_key is not null then
        insert into {schema}.message_key (workflow_id, topic, key)
            values (send.id, send.topic, send.idempotency_key) on conflict do nothing;
        if not found then
            return false;
        end if;
    end if;
    insert into {schema}.message (workflow_id, id, topic, body)
        values (send.id, {schema}.uuid7(), send.topic, coalesce(send.value, 'null'));
    perform {schema}.wake(send.id);
    return true;
end $$;

comment on function {schema}.send is
    'Sends a message to a workflow: select dbdurable.send(id, ''approval'', ''{"approved": true}'')';

-- The value of an event, null while it is not set.
create function {schema}.get_event(id uuid, name text) returns json language plpgsql stable as $$
#variable_conflict use_column
declare
    found_value json;
begin
    perform from {schema}.workflow w where w.id = get_event.id;
    if not found then
        raise exception using errcode = 'DD006', message = format('there is no workflow %s', get_event.id);
    end if;
    select e.value into found_value
      from {schema}.event e where e.workflow_id = get_event.id and e.name = get_event.name;
    return found_value;
end $$;

comment on function {schema}.get_event is 'What a workflow has said by set_event(name, value); null: nothing yet';

-- Completes a promise: a message on a topic that nobody else can write, under the id that follows from the
-- token. It stays there: a second one is refused, unless it is the same call, sent again ("call").
create function {schema}.complete(token text, body json, call uuid default null) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    parts text[] := regexp_match(complete.token, '^([0-9a-f]{32})-([0-9]+(?:\.[0-9]+)*)-([0-9a-f]{32})$');
    target uuid;
    known json;
begin
    target := parts[1]::uuid;
    if target is null or not exists (
            select from {schema}.step s where s.workflow_id = target and s.path = parts[2] and s.kind = 'promise'
               and s.output #>> '{}' = complete.token) then
        raise exception using errcode = 'DD012', message = 'no workflow has made a promise with this token',
            hint = 'it is the text that promise(...).token gave, whole and unchanged';
    end if;
    -- Completed before: also where the workflow has ended since. A step that runs again completes it again.
    select m.body into known from {schema}.message m
     where m.workflow_id = target and m.id = md5(complete.token)::uuid;
    if not found then
        perform {schema}.check_open(target);
        perform complete.body::jsonb;
        insert into {schema}.message (workflow_id, id, topic, body)
            values (target, md5(complete.token)::uuid, '!promise ' || parts[2],
                    json_build_object('call', complete.call, 'outcome', complete.body))
            on conflict do nothing;
        if found then
            perform {schema}.wake(target);
            return;
        end if;
        -- A statement of its own, so that it sees one that committed while we waited for it.
        select m.body into strict known from {schema}.message m
         where m.workflow_id = target and m.id = md5(complete.token)::uuid;
    end if;
    if complete.call is null or known ->> 'call' is distinct from complete.call::text then
        raise exception using errcode = 'DD013', message = format(
            'this promise of workflow %s was completed before', target);
    end if;
end $$;

create function {schema}.resolve(token text, value json default 'null', call uuid default null) returns void
language sql volatile as $$
    select {schema}.complete(token, json_build_object('value', coalesce(value, 'null')), call);
$$;

comment on function {schema}.resolve is 'Completes a promise: select dbdurable.resolve(token, ''{"signed": true}'')';

create function {schema}.reject(token text, reason text default '', call uuid default null) returns void
language sql volatile as $$
    select {schema}.complete(token, json_build_object('reason', coalesce(left(reason, 10000), '')), call);
$$;

comment on function {schema}.reject is 'Fails a promise: its result() raises PromiseRejected with the reason';

create view {schema}.waiting as
select w.id, w.name, t.kind::text as kind, t.subject, t.due, t.path, t.created_at as since, w.key, w.queue
  from {schema}.wait t join {schema}.workflow w on w.id = t.workflow_id
 where w.status in ('waiting', 'queued', 'paused')
   and (t.kind <> 'retry'
        or not exists (select from {schema}.step s where s.workflow_id = t.workflow_id and s.path = t.path));

comment on view {schema}.waiting is
    'What workflows wait for: kind sleep, message (subject: the topic), event, result, start, retry (subject: why)';
