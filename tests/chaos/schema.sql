-- What the oracle looks at. Triggers note every change of status and every record in the order of the row locks:
-- "n" is drawn while the row's lock is held, and claims of a limited queue draw theirs under the lock of its limit.
create schema chaos;
create sequence chaos.n;

create table chaos.effect (workflow_id uuid, path text, what text, value integer);
create table chaos.booking (id text primary key, workflow_id uuid);

-- Loaded when all is over: what steps did outside, and what clients were told.
create table chaos.outside (workflow_id uuid, path text, what text, key uuid, pid integer);
create table chaos.asked (id text, name text, key text, input json, workflow_id uuid, told boolean);

create table chaos.history (
    n bigint default nextval('chaos.n'), at timestamptz default clock_timestamp(),
    id uuid, queue text, partition text, status text, before text, epoch integer, epoch_before integer,
    executor_id uuid, slots text[], slots_before text[]);

create function chaos.note_status() returns trigger language plpgsql as $$
begin
    insert into chaos.history (id, queue, partition, status, before, epoch, epoch_before, executor_id, slots, slots_before)
    values (new.id, new.queue, new.partition, new.status, old.status, new.epoch, old.epoch, new.executor_id,
            new.slots, old.slots);
    return null;
end $$;
create trigger chaos_history after update on dbdurable.workflow for each row execute function chaos.note_status();

create table chaos.recorded (n bigint default nextval('chaos.n'), id uuid, path text, kind text, epoch integer, failed boolean);

create function chaos.note_record() returns trigger language plpgsql as $$
begin
    insert into chaos.recorded (id, path, kind, epoch, failed)
    values (new.workflow_id, new.path, new.kind, new.epoch, new.error is not null);
    return null;
end $$;
create trigger chaos_recorded after insert on dbdurable.step for each row execute function chaos.note_record();

create table chaos.counted (n bigint default nextval('chaos.n'), queue text, partition text, used integer, most integer);

create function chaos.note_limit() returns trigger language plpgsql as $$
begin
    insert into chaos.counted (queue, partition, used, most)
    select new.queue, new.partition, new.used, case when new.partition = '' then q.concurrency else q.per_partition end
      from dbdurable.queue q where q.name = new.queue;
    return null;
end $$;
create trigger chaos_counted after insert or update on dbdurable.limit_key
    for each row execute function chaos.note_limit();

-- Samples of a running system: what is taken of the limits against who holds it, in one snapshot.
create table chaos.sample (at timestamptz default clock_timestamp(), queue text, partition text, used integer, holders bigint);
