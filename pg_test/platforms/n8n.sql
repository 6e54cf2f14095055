-- n8n 1.110 (TypeORM): what a run has used is inside of the text of execution_data.data, in a form of its own.
-- expects nothing: the tokens are in a text that only n8n reads
CREATE TABLE "user" (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email varchar(255) UNIQUE, "firstName" varchar(32), "lastName" varchar(32), password varchar(255), settings json, disabled boolean NOT NULL DEFAULT false, "createdAt" timestamptz(3) NOT NULL DEFAULT now(), "updatedAt" timestamptz(3) NOT NULL DEFAULT now());
CREATE TABLE project (id varchar(36) PRIMARY KEY, name varchar(255) NOT NULL, type varchar(36) NOT NULL, "createdAt" timestamptz(3) NOT NULL DEFAULT now());
CREATE TABLE workflow_entity (id varchar(36) PRIMARY KEY, name varchar(128) NOT NULL, active boolean NOT NULL, nodes json NOT NULL, connections json NOT NULL, settings json, "staticData" json, "versionId" char(36), "triggerCount" integer NOT NULL DEFAULT 0, "createdAt" timestamptz(3) NOT NULL DEFAULT now());
CREATE TABLE shared_workflow ("workflowId" varchar(36) NOT NULL REFERENCES workflow_entity, "projectId" varchar(36) NOT NULL REFERENCES project, role text NOT NULL, PRIMARY KEY ("workflowId", "projectId"));
CREATE TABLE execution_entity (id serial PRIMARY KEY, finished boolean NOT NULL, mode varchar NOT NULL, "retryOf" varchar, "retrySuccessId" varchar, "startedAt" timestamptz(3), "stoppedAt" timestamptz(3), "waitTill" timestamptz(3), status varchar NOT NULL, "workflowId" varchar(36) NOT NULL REFERENCES workflow_entity ON DELETE CASCADE, "deletedAt" timestamptz(3), "createdAt" timestamptz(3) NOT NULL DEFAULT now());
CREATE TABLE execution_data ("executionId" integer PRIMARY KEY REFERENCES execution_entity ON DELETE CASCADE, "workflowData" json NOT NULL, data text NOT NULL);
CREATE TABLE insights_metadata ("metaId" serial PRIMARY KEY, "workflowId" varchar(16) UNIQUE, "projectId" varchar(36), "workflowName" varchar(128) NOT NULL, "projectName" varchar(255) NOT NULL);
CREATE TABLE insights_raw (id serial PRIMARY KEY, "metaId" integer NOT NULL REFERENCES insights_metadata, type integer NOT NULL, value integer NOT NULL, timestamp timestamptz(0) NOT NULL DEFAULT now());

INSERT INTO project (id, name, type) VALUES ('p1', 'one', 'personal');
INSERT INTO workflow_entity (id, name, active, nodes, connections) VALUES ('wf1', 'one', true, '[]', '{}');
INSERT INTO shared_workflow VALUES ('wf1', 'p1', 'workflow:owner');
INSERT INTO execution_entity (finished, mode, "startedAt", "stoppedAt", status, "workflowId") SELECT true, 'webhook', now(), now(), 'success', 'wf1' FROM generate_series(1, 12);
INSERT INTO execution_data SELECT id, '{"id": "wf1"}', '[{"resultData": "1"}, {"runData": "2"}, {}]' FROM execution_entity;
