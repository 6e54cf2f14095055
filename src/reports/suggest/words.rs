//! What names of tables and columns say: their words, whatever the style, and what the words are used for.

/// The words of a name, in lower case and singular: `LiteLLM_SpendLogs` is lite llm spend log.
pub(super) fn words(name: &str) -> Vec<String> {
    let characters: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (at, &character) in characters.iter().enumerate() {
        let is_upper = |at: usize| characters.get(at).is_some_and(|it| it.is_uppercase());
        let begins_word = character.is_uppercase()
            && at > 0
            && (!is_upper(at - 1) || characters.get(at + 1).is_some_and(|it| it.is_lowercase()));
        if !character.is_alphanumeric() || begins_word {
            words.push(String::new());
        }
        if character.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(character.to_lowercase());
        }
    }
    let words = words.into_iter().filter(|word| !word.is_empty());
    words.map(singular).collect()
}

fn singular(word: String) -> String {
    let stem = |end: &str| word.strip_suffix(end).filter(|stem| stem.len() > 2);
    if let Some(stem) = stem("ies") {
        format!("{stem}y")
    } else if word.ends_with("ss") || word.ends_with("us") || word.ends_with("is") {
        word
    } else if let Some(stem) = stem("sses") {
        format!("{stem}ss")
    } else {
        stem("s").map_or(word.clone(), str::to_owned)
    }
}

fn has(words: &[String], any: &[&str]) -> bool {
    words.iter().any(|word| any.contains(&word.as_str()))
}

fn are(words: &[String], these: &[&str]) -> bool {
    words.iter().eq(these.iter())
}

/// What a number column counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Counts {
    /// All tokens of the row.
    Total,
    Prompt,
    Completion,
    /// Something else that can be charged: credits, quota, cost.
    Amount,
}

/// Of tokens: what a provider may count apart.
const APART: &[&str] = &["cache", "cached", "reasoning", "audio", "image"];
/// Of tokens: a sum of what is below, or was before.
const RUNNING: &[&str] = &["cumulative", "accumulated", "running"];

pub(super) fn counts(column: &str) -> Option<Counts> {
    let words = words(column);
    const OTHERS: &[&str] = &[
        "id",
        "limit",
        "max",
        "min",
        "budget",
        "price",
        "remaining",
        "remain",
        "balance",
        "per",
        "rate",
        "left",
        "name",
        "type",
        "version",
        "count24h",
        "first",
        "second",
    ];
    if [OTHERS, APART, RUNNING].iter().any(|any| has(&words, any)) {
        return None;
    }
    if has(&words, &["token"]) {
        const MONEY_OR_THOUSANDS: &[&str] = &[
            "cost", "spend", "usd", "eur", "cent", "fee", "k", "thousand", "million",
        ];
        return if has(&words, MONEY_OR_THOUSANDS) {
            None
        } else if has(&words, &["prompt", "input", "message", "request", "in"]) {
            Some(Counts::Prompt)
        } else if has(
            &words,
            &[
                "completion",
                "output",
                "answer",
                "response",
                "generated",
                "out",
            ],
        ) {
            Some(Counts::Completion)
        } else if has(
            &words,
            &["total", "count", "used", "num", "number", "usage"],
        ) || column.to_lowercase() == "tokens"
        {
            Some(Counts::Total)
        } else {
            None
        };
    }
    let is_amount = words.last().is_some_and(|last| {
        ["credit", "quota", "spend", "cost", "unit", "charge"].contains(&last.as_str())
    }) || are(&words, &["cost", "in", "cent"])
        || are(&words, &["usage", "duration", "ms"]);
    is_amount.then_some(Counts::Amount)
}

/// Whether a column has tokens that a provider may count apart.
pub(super) fn is_counted_apart(column: &str) -> bool {
    let words = words(column);
    has(&words, &["token"])
        && has(&words, APART)
        && !has(&words, &["cost", "price", "limit", "max", "per"])
}

/// Whether a column has a sum of what was before, which the next row has again.
pub(super) fn is_running_sum(column: &str) -> bool {
    let words = words(column);
    has(&words, &["token"]) && has(&words, RUNNING)
}

/// Whether a column says which table the ids of another one are of: `owner_type` of `owner_id`.
pub(super) fn says_table_of(column: &str, reference: &str) -> bool {
    let (column, reference) = (words(column), words(reference));
    match (column.split_last(), reference.split_last()) {
        (Some((last, of)), Some((id, stem))) => {
            last == "type" && id == "id" && !stem.is_empty() && of == stem
        }
        _ => false,
    }
}

/// Whether a table's rows are sums of many calls, which change in place.
pub(super) fn is_of_sums(table: &str) -> bool {
    has(
        &words(table),
        &[
            "daily",
            "hourly",
            "monthly",
            "stat",
            "statistic",
            "summary",
            "aggregate",
            "analytic",
            "metric",
            "budget",
            "quota",
        ],
    )
}

/// Whether a table's name is that of records of use.
pub(super) fn is_of_use(table: &str) -> bool {
    has(
        &words(table),
        &[
            "usage",
            "log",
            "spend",
            "message",
            "step",
            "observation",
            "generation",
            "call",
            "completion",
            "response",
            "record",
            "request",
            "span",
            "event",
            "run",
            "job",
            "task",
            "execution",
            "chat",
            "conversation",
        ],
    )
}

/// How well a column's name is that of a model's name; 0: not at all, 1: it may be something else.
pub(super) fn names_model(column: &str) -> i32 {
    let words = words(column);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["model"] => 5,
        ["model", "name"] | ["llm", "model"] | ["llm", "model", "name"] => 4,
        ["model", "id"] | ["llm", "name"] => 3,
        [.., "model"] => 2,
        ["engine"] | ["llm"] => 1,
        _ => 0,
    }
}

/// How much a table looks like one of those who pay; 0: not at all.
pub(super) fn pays(table: &str) -> i32 {
    let words = stem(table);
    match words.last().map(String::as_str) {
        Some("user" | "account" | "customer" | "subscriber") => 6,
        Some("tenant" | "organization" | "organisation" | "org" | "company") => 5,
        Some("workspace" | "team" | "project" | "member" | "client") => 4,
        Some("key") if has(&words, &["api", "virtual"]) => 3,
        Some("token") if has(&words, &["api", "verification", "access"]) => 2,
        _ => 0,
    }
}

/// The words that say what a table or a reference is of: without those that say that it is a table or a key.
pub(super) fn stem(name: &str) -> Vec<String> {
    let mut words = words(name);
    while words.len() > 1
        && words.last().is_some_and(|last| {
            ["id", "uuid", "fk", "ref", "table", "tbl", "entity", "pk"].contains(&last.as_str())
        })
    {
        words.pop();
    }
    if are(&words, &["created", "by"]) || are(&words, &["owner"]) || are(&words, &["owned", "by"]) {
        return vec!["user".into()];
    }
    words
}

/// Whether a column's name is that of a reference to a table: `workflow_run_id` to `workflow_runs` and to `runs`,
/// `api_key` to `api_keys`, `end_user_id` to `users`.
pub(super) fn refers(column: &str, table: &str) -> bool {
    let (column, table) = (stem(column), stem(table));
    if column.is_empty() || table.is_empty() {
        return false;
    }
    column.ends_with(&table) || table.ends_with(&column)
}

/// Whether a column names a run.
pub(super) fn is_run(column: &str) -> bool {
    let words = words(column);
    let is_key = words.len() > 1 && has(&words[words.len() - 1..], &["id", "uuid"]);
    is_key
        && has(
            &stem(column),
            &[
                "run",
                "workflow",
                "session",
                "conversation",
                "thread",
                "trace",
                "task",
                "job",
                "execution",
                "chat",
                "request",
                "topic",
                "flow",
            ],
        )
}

/// Whether a column has the state of a row.
pub(super) fn is_status(column: &str) -> bool {
    let words = words(column);
    words
        .last()
        .is_some_and(|last| ["status", "state", "phase"].contains(&last.as_str()))
}

/// Whether a boolean column says that a row is over.
pub(super) fn is_flag_of_end(column: &str) -> bool {
    let words = words(column);
    words
        .last()
        .is_some_and(|last| ["done", "finished", "completed", "complete"].contains(&last.as_str()))
}

/// Whether a time column has when a row was over.
pub(super) fn is_time_of_end(column: &str) -> bool {
    let words = words(column);
    has(
        &words,
        &[
            "completed",
            "finished",
            "ended",
            "stopped",
            "completion",
            "end",
            "finish",
        ],
    ) && !has(
        &words,
        &["start", "started", "period", "trial", "subscription"],
    )
}

/// How well a time column is that of the row's own; 0: not at all.
pub(super) fn is_time_of_row(column: &str) -> i32 {
    let words = words(column);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["created", "at"] => 5,
        ["created" | "inserted"]
        | ["created" | "inserted", "on" | "date" | "time" | "ts"]
        | ["inserted", "at"]
        | ["create" | "creation", "time" | "date"]
        | ["date", "created"]
        // createdAt that was written without quotes.
        | ["createdat"]
        | ["timestamp"] => 4,
        [
            "called" | "logged" | "occurred" | "recorded" | "requested" | "used" | "happened"
            | "received",
            "at" | "on",
        ]
        | ["event" | "request" | "log" | "call" | "usage", "time" | "ts" | "timestamp"]
        | ["ts"] => 3,
        // A beginning is before the row; a date is a day.
        ["start", "time"] | ["started", "at"] | ["time"] | ["date"] => 2,
        _ => 0,
    }
}

/// Whether a column says that a row counts as deleted, and stays.
pub(super) fn is_deleted(column: &str) -> bool {
    let words = words(column);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    matches!(
        words[..],
        ["deleted"] | ["deleted", "at"] | ["is", "deleted"] | ["deleted", "on"]
    )
}

/// Whether a time is of what became of a row later, or becomes of it. Words are singular: expires is expire.
pub(super) fn is_time_of_later(column: &str) -> bool {
    has(
        &words(column),
        &[
            "updated",
            "modified",
            "deleted",
            "removed",
            "archived",
            "expire",
            "expired",
            "expiry",
            "expiration",
            "valid",
            "until",
            "finished",
            "ended",
            "end",
            "completed",
            "closed",
            "due",
            "billed",
            "paid",
            "synced",
            "seen",
        ],
    )
}

/// Whether a status reads like one of a run that is over and has succeeded.
pub(super) fn is_success(status: &str) -> bool {
    let letters: String = status
        .chars()
        .filter(|letter| letter.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    [
        "completed",
        "complete",
        "succeeded",
        "success",
        "successful",
        "finished",
        "done",
        "ended",
        "ok",
        "completedsuccessfully",
        "partialsucceeded",
        "partialsuccess",
    ]
    .contains(&letters.as_str())
}

/// Whether a status reads like one of a run that goes on.
pub(super) fn is_open(status: &str) -> bool {
    let words = words(status);
    has(
        &words,
        &[
            "running",
            "pending",
            "queued",
            "created",
            "new",
            "waiting",
            "started",
            "scheduled",
            "delayed",
            "executing",
            "active",
            "paused",
            "retrying",
            "processing",
            "open",
            "init",
            "unstart",
            "dequeued",
            "frozen",
        ],
    )
}

/// Whether a JSON column's name is that of figures of a call.
pub(super) fn is_of_figures(name: &str) -> bool {
    has(&words(name), &["usage", "token"])
}

/// The ORM whose own table this is, if it saves whole rows: what it has read before a charge, it writes back.
pub(super) fn saves_whole_rows(table: &str) -> Option<&'static str> {
    match table {
        "django_migrations" => Some("Django"),
        "typeorm_metadata" => Some("TypeORM"),
        "flyway_schema_history" | "databasechangelog" => Some("Hibernate, maybe"),
        _ => None,
    }
}
