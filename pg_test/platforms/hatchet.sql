-- Hatchet 0.60 (its second engine): runs by tenant, partitioned by day; what a task has used is in its output, if anywhere.
-- expects nothing: no table has tokens
CREATE TYPE v1_readable_status_olap AS ENUM ('QUEUED', 'RUNNING', 'CANCELLED', 'FAILED', 'COMPLETED');
CREATE TYPE v1_run_kind AS ENUM ('TASK', 'DAG');
CREATE TABLE "Tenant" (id uuid PRIMARY KEY, "createdAt" timestamp(3) NOT NULL DEFAULT now(), "updatedAt" timestamp(3) NOT NULL DEFAULT now(), name text NOT NULL, slug text NOT NULL UNIQUE);
CREATE TABLE v1_runs_olap (tenant_id uuid NOT NULL, id bigint NOT NULL, inserted_at timestamptz NOT NULL DEFAULT now(), external_id uuid NOT NULL DEFAULT gen_random_uuid(), readable_status v1_readable_status_olap NOT NULL DEFAULT 'QUEUED', kind v1_run_kind NOT NULL, workflow_id uuid NOT NULL, workflow_version_id uuid NOT NULL, additional_metadata jsonb, parent_task_external_id uuid, PRIMARY KEY (inserted_at, id, readable_status, kind)) PARTITION BY RANGE (inserted_at);
CREATE TABLE v1_runs_olap_all PARTITION OF v1_runs_olap DEFAULT;
CREATE TABLE v1_task (id bigint GENERATED ALWAYS AS IDENTITY, inserted_at timestamptz NOT NULL DEFAULT now(), tenant_id uuid NOT NULL, queue text NOT NULL, action_id text NOT NULL, step_id uuid NOT NULL, workflow_id uuid NOT NULL, external_id uuid NOT NULL, display_name text NOT NULL, input jsonb NOT NULL, retry_count integer NOT NULL DEFAULT 0, workflow_run_id uuid NOT NULL, PRIMARY KEY (id, inserted_at)) PARTITION BY RANGE (inserted_at);
CREATE TABLE v1_task_all PARTITION OF v1_task DEFAULT;
CREATE TABLE "TenantResourceLimit" (id uuid PRIMARY KEY, resource text NOT NULL, "tenantId" uuid NOT NULL REFERENCES "Tenant", "limitValue" integer NOT NULL, value integer NOT NULL DEFAULT 0);

INSERT INTO "Tenant" (id, name, slug) VALUES (md5('t1')::uuid, 'one', 'one');
INSERT INTO v1_runs_olap (tenant_id, id, readable_status, kind, workflow_id, workflow_version_id, additional_metadata) SELECT md5('t1')::uuid, i, 'COMPLETED', 'TASK', md5('w')::uuid, md5('v')::uuid, '{"customer": "x"}' FROM generate_series(1, 12) i;
