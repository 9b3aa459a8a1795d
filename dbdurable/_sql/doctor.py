"""What `dbdurable doctor` asks. It changes nothing; each statement sees one moment, so that its rows fit together."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.parts import with_parts
from dbdurable._sql.statement import Statement
from dbdurable._sql.tickets import LINES

# ---- the server --------------------------------------------------------------------------------------------

SERVER: Final = Statement(
    "doctor_server",
    """
    select json_build_object(
        'version', current_setting('server_version'), 'version_num', current_setting('server_version_num')::int,
        'database', current_database(), 'role', current_user,
        'in_recovery', pg_is_in_recovery(), 'read_only', current_setting('transaction_read_only') = 'on',
        'synchronous_commit', current_setting('synchronous_commit'), 'fsync', current_setting('fsync'),
        'full_page_writes', current_setting('full_page_writes'), 'autovacuum', current_setting('autovacuum'),
        'track_counts', current_setting('track_counts'),
        'connections_max', current_setting('max_connections')::int
                           - current_setting('superuser_reserved_connections')::int,
        'connections', (select sum(numbackends) from pg_stat_database),
        'sees_all', pg_has_role('pg_read_all_stats', 'usage'))::text
    """,
)

PROBE: Final = Statement("doctor_probe", "select pg_backend_pid(), extract(epoch from clock_timestamp())::float8")

SESSIONS: Final = Statement(
    "doctor_sessions",
    # Who holds a snapshot or a transaction id for longer than $1 seconds: what died since then cannot be vacuumed.
    # Of other roles' sessions a plain role sees no times, only how many transactions ago they began.
    """
    select json_build_object('what', 'session', 'name', pid, 'application', application_name, 'role', usename,
               'state', state, 'age_s', extract(epoch from clock_timestamp() - xact_start)::float8,
               'transactions', greatest(age(backend_xmin), age(backend_xid)))::text
      from pg_stat_activity
     where pid <> pg_backend_pid() and (backend_xmin is not null or backend_xid is not null)
       and coalesce(backend_type, '') <> 'autovacuum worker' and (datname = current_database() or datname is null)
       and (xact_start < clock_timestamp() - make_interval(secs => $1::float8)
            or xact_start is null and greatest(age(backend_xmin), age(backend_xid)) > 1000000)
    union all
    select json_build_object('what', 'prepared', 'name', gid, 'role', owner,
               'age_s', extract(epoch from clock_timestamp() - prepared)::float8,
               'transactions', age(transaction))::text
      from pg_prepared_xacts
     where database = current_database() and prepared < clock_timestamp() - make_interval(secs => $1)
    union all
    select json_build_object('what', 'slot', 'name', slot_name, 'transactions', age(xmin), 'bytes',
               case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) end)::text
      from pg_replication_slots where not active and (xmin is not null or restart_lsn is not null)
    """,
)

# ---- the tables --------------------------------------------------------------------------------------------

TABLES: Final = Statement(
    "doctor_tables",
    """
    select json_build_object(
        'name', c.relname, 'owner', pg_get_userbyid(c.relowner), 'owned', pg_has_role(c.relowner, 'usage'),
        'vacuumed', coalesce('autovacuum_enabled=false' <> all(c.reloptions)
                             and 'autovacuum_enabled=off' <> all(c.reloptions), true),
        'live', pg_stat_get_live_tuples(c.oid), 'dead', pg_stat_get_dead_tuples(c.oid),
        'updates', pg_stat_get_tuples_updated(c.oid), 'hot', pg_stat_get_tuples_hot_updated(c.oid),
        'vacuum_s', extract(epoch from clock_timestamp() - greatest(pg_stat_get_last_autovacuum_time(c.oid),
                                                                   pg_stat_get_last_vacuum_time(c.oid)))::float8,
        'bytes', pg_relation_size(c.oid))::text
      from pg_catalog.pg_class c
     where c.relnamespace = '{schema}'::regnamespace and c.relkind = 'r' order by c.relname
    """,
)

COLUMNS: Final = Statement(
    "doctor_columns",
    """
    select c.relname::text, a.attname::text
      from pg_catalog.pg_class c
      join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.relnamespace = '{schema}'::regnamespace and c.relkind = 'r'
    """,
)

OBJECTS: Final = Statement(
    "doctor_objects",
    """
    select case c.relkind when 'r' then 'table' when 'v' then 'view' else 'index' end, c.relname::text,
           coalesce(i.indisvalid and i.indisready, true)
      from pg_catalog.pg_class c left join pg_catalog.pg_index i on i.indexrelid = c.oid
     where c.relnamespace = '{schema}'::regnamespace and c.relkind in ('r', 'v', 'i')
    union all
    select distinct 'function', p.proname::text, true
      from pg_catalog.pg_proc p where p.pronamespace = '{schema}'::regnamespace
    union all
    select 'trigger', c.relname || '.' || t.tgname, true
      from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid
     where c.relnamespace = '{schema}'::regnamespace and not t.tgisinternal
    """,
)

COLD_INDEXES: Final = Statement(
    "doctor_cold_indexes",
    # Indexes over a column of workflow that changes: each update then writes all indexes.
    """
    select c.relname::text
      from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
     where i.indrelid = '{schema}.workflow'::regclass and exists (
           select from pg_catalog.pg_attribute a
             left join pg_catalog.pg_depend d
                    on d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
                   and d.refclassid = 'pg_class'::regclass and d.refobjid = i.indrelid and d.refobjsubid = a.attnum
            where a.attrelid = i.indrelid
              and a.attnum >= (select s.attnum from pg_catalog.pg_attribute s
                                where s.attrelid = i.indrelid and s.attname = 'status')
              and (a.attnum = any(i.indkey) or d.objid is not null))
    """,
)

GRANTS: Final = Statement(
    "doctor_grants",
    # What an executor needs and this role lacks.
    """
    select 'usage', 'schema ' || '{schema}'::regnamespace::text
     where not has_schema_privilege('{schema}'::regnamespace, 'usage')
    union all
    select p.privilege, c.oid::regclass::text
      from pg_catalog.pg_class c cross join unnest(array['select', 'insert', 'update', 'delete']) as p(privilege)
     where c.relnamespace = '{schema}'::regnamespace and not has_table_privilege(c.oid, p.privilege)
       and (c.relkind = 'r' and (c.relname <> 'migration' or p.privilege = 'select')
            or c.relkind = 'v' and p.privilege = 'select')
    union all
    select 'execute', 'function ' || f.oid::regprocedure::text
      from pg_catalog.pg_proc f
     where f.pronamespace = '{schema}'::regnamespace and not has_function_privilege(f.oid, 'execute')
    """,
)

# ---- the work ----------------------------------------------------------------------------------------------

HEADS: Final = Statement(
    "doctor_heads",
    # What nobody takes gathers at the head of its line: $1 tickets a line, $2 in all; null for all there are.
    with_parts(
        """
    with recursive {lines},
    ticket as (
        select t.queue, t.name, t.at
          from head h cross join lateral (
               select r.queue, r.name, r.at from {schema}.ready r
                where r.queue = h.queue and r.partition = h.partition and r.rank = h.rank
                order by r.queue, r.partition, r.rank, r.at limit $1::bigint) t
         limit $2::bigint)
    select json_build_object(
        'queue', t.queue, 'name', t.name, 'workflows', count(*),
        'age_s', extract(epoch from clock_timestamp() - min(t.at))::float8,
        'queue_served', exists (select from {schema}.executor e
                                 where e.expires_at > clock_timestamp() and t.queue = any(e.queues)),
        'name_known', exists (select from {schema}.executor e
                               where e.expires_at > clock_timestamp() and t.name = any(e.names)))::text
      from ticket t
     where not exists (select from {schema}.executor e
                        where e.expires_at > clock_timestamp() and t.name = any(e.names) and t.queue = any(e.queues))
     group by t.queue, t.name order by t.queue, t.name
    """,
        lines=LINES,
    ),
)

EXECUTORS: Final = Statement(
    "doctor_executors",
    # Those that are registered, and those that are gone but still hold workflows.
    """
    select json_build_object(
        'process', e.host || ':' || e.pid, 'host', e.host, 'version', e.version, 'names', e.names,
        'queues', e.queues, 'alive', coalesce(e.expires_at > clock_timestamp(), false),
        'dead_s', case when e.expires_at > '-infinity' then extract(epoch from clock_timestamp() - e.expires_at) end,
        'holds', coalesce(l.holds, 0))::text
      from {schema}.executor e
      full join (select executor_id, sum(cardinality(ids)) as holds from {schema}.lease group by 1) l
             on l.executor_id = e.id
     order by e.started_at
    """,
)

STRANDED: Final = Statement(
    "doctor_stranded",
    # The newest $1 workflows (null: all): each unfinished one must be where somebody finds it. $2: look for tickets,
    # too, which reads all of them.
    """
    with w as materialized (
        select id, name, status, executor_id, epoch from {schema}.workflow order by id desc limit $1::bigint),
    held as materialized (
        select distinct l.executor_id, i.id from {schema}.lease l cross join unnest(l.ids) as i(id)),
    lost as (
        select w.id, w.name, w.status, w.epoch from w
         where w.status = 'running'
           and not exists (select from held h where h.id = w.id and h.executor_id = w.executor_id)
        union all
        select w.id, w.name, w.status, w.epoch from w
         where w.status in ('queued', 'waiting') and $2::boolean
           and not exists (select from {schema}.ready r where r.workflow_id = w.id)
           and not exists (select from {schema}.wait t where t.workflow_id = w.id and t.kind <> 'expiry')
        union all
        select w.id, w.name, w.status, w.epoch from w
         where w.status in ('paused', 'blocked', 'failed')
           and not exists (select from {schema}.attention a where a.workflow_id = w.id))
    select id::text, name, status::text, epoch from lost
    """,
)

LIMITS: Final = Statement(
    "doctor_limits",
    # What each limit says is taken, and what is: by workflows in lease rows and paused ones, or ($1) by all.
    """
    with holder(id) as (
        select i.id from {schema}.lease l cross join unnest(l.ids) as i(id)
        union
        select workflow_id from {schema}.attention where status in ('paused', 'blocked')
        union
        select id from {schema}.workflow where $1::boolean and slots is not null),
    taken as (
        select w.queue, x.partition, count(*) as taken
          from holder h join {schema}.workflow w on w.id = h.id cross join unnest(w.slots) as x(partition)
         group by 1, 2)
    select coalesce(k.queue, t.queue), coalesce(k.partition, t.partition), coalesce(k.used, 0), coalesce(t.taken, 0)
      from {schema}.limit_key k full join taken t on t.queue = k.queue and t.partition = k.partition
     where coalesce(k.used, 0) <> coalesce(t.taken, 0)
     order by 1, 2
    """,
)

ATTENTION: Final = Statement(
    "doctor_attention",
    """
    select status::text, count(*), extract(epoch from clock_timestamp() - min(since))::float8
      from {schema}.attention group by status order by status
    """,
)

PAUSED_QUEUES: Final = Statement(
    "doctor_paused_queues",
    """
    select q.name from {schema}.queue q
     where q.paused and exists (select from {schema}.ready r where r.queue = q.name) order by q.name
    """,
)
