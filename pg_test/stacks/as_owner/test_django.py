"""Django: migrations, saves of whole rows, transactions, a retry around a view, notices."""

import functools
import os

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"],
        "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"], "ATOMIC_REQUESTS": True,
    }},
    INSTALLED_APPS=["django_shop"], DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", USE_TZ=True,
    ROOT_URLCONF="__main__", SECRET_KEY="of a test", ALLOWED_HOSTS=["*"],
)
django.setup()

import psycopg
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.db.backends.signals import connection_created
from django.http import JsonResponse
from django.test import Client
from django.urls import path
from django_shop.models import TokenUsage, User, Workflow

from checks import end, is_

heard = []
attempts = []


def value(sql, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0]


def balance(user):
    """A key is a number, and a driver sends it as one."""
    return value("SELECT token_balance.balance(%s) ->> 'token_balance'", user.pk)


def again_after_conflicts(view):
    """40001 and 40P01 ask for the whole transaction again. So the view's transaction has to be inside of the loop, and
    ATOMIC_REQUESTS, which is around it, off."""

    @functools.wraps(view)
    def retried(request, *args, **kwargs):
        for attempt in range(5):
            try:
                with transaction.atomic():
                    return view(request, *args, **kwargs)
            except OperationalError as error:
                if getattr(error.__cause__, "sqlstate", None) not in ("40001", "40P01") or attempt == 4:
                    raise

    return transaction.non_atomic_requests(retried)


@again_after_conflicts
def complete(request, workflow):
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    run = Workflow.objects.select_related("user").get(pk=workflow)
    attempts.append(run.user.token_balance)
    if len(attempts) == 1:
        with psycopg.connect("", autocommit=True) as other:
            other.execute("SELECT token_balance.credit(%s, 5)", (run.user.pk,))
    run.status = "completed"
    run.save()
    run.user.refresh_from_db()
    return JsonResponse({"token_balance": run.user.token_balance})


urlpatterns = [path("complete/<int:workflow>", complete)]


def used(user, tokens, **more):
    run = Workflow.objects.create(user=user)
    TokenUsage.objects.create(workflow=run, user_id=user.pk, total_tokens=tokens, **more)
    return run


def finish(run):
    run.status = "completed"
    run.save()


def main():
    connection_created.connect(
        lambda connection, **_: connection.connection.add_notice_handler(
            lambda notice: heard.append((notice.severity_nonlocalized, notice.sqlstate))),
        weak=False)
    call_command("migrate", verbosity=0)
    try:
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)
        wanted = 0
    except SystemExit as stopped:
        wanted = stopped.code
    is_("models and migrations agree", wanted, 0)
    is_("the column is there once", value("SELECT count(*) FROM information_schema.columns WHERE column_name = 'token_balance' AND table_name = 'django_shop_user'"), 1)
    ann = User.objects.create(email="ann@example.com")
    is_("a new account", balance(ann), "1000000")

    # A row that was read before the charge, saved as a whole after it.
    run, stale = used(ann, 100), User.objects.get(pk=ann.pk)
    finish(run)
    is_("a completed run is charged", balance(ann), "999900")
    stale.email = "ann@example.org"
    stale.save()
    is_("a save of the whole row does not undo it", balance(ann), "999900")
    is_("and the rest of it is saved", User.objects.get(pk=ann.pk).email, "ann@example.org")
    is_("the object is stale until it is read again", stale.token_balance, 1000000)
    stale.refresh_from_db()
    is_("and then is not", stale.token_balance, 999900)
    User.objects.filter(pk=ann.pk).update(token_balance=5)
    is_("nor does an update", balance(ann), "999900")

    # Transactions.
    try:
        with transaction.atomic():
            finish(used(ann, 30))
            is_("inside: charged", balance(ann), "999870")
            raise KeyError
    except KeyError:
        pass
    is_("rolled back: not", balance(ann), "999900")
    with transaction.atomic():
        finish(used(ann, 30))
        try:
            with transaction.atomic():
                finish(used(ann, 1000))
                raise KeyError
        except KeyError:
            pass
    is_("a savepoint takes its own charge alone back", balance(ann), "999870")

    # Bulk: one statement.
    runs = [used(ann, 10).pk for _ in range(5)]
    Workflow.objects.filter(pk__in=runs).update(status="completed")
    is_("an update of many", balance(ann), "999820")

    # A retry around a view.
    run = used(ann, 20)
    answer = Client().get(f"/complete/{run.pk}").json()
    is_("the view is called again after 40001", (len(attempts), answer["token_balance"]), (2, 999805))
    is_("and has charged once", balance(ann), "999805")

    # Usage of nobody: the run completes, and there is a WARNING.
    heard.clear()
    run = Workflow.objects.create(user=ann)
    TokenUsage.objects.create(workflow=run, user_id=999, total_tokens=3)
    finish(run)
    is_("usage of nobody: the run completes", Workflow.objects.get(pk=run.pk).status, "completed")
    is_("and Django's connection hears it", [one for one in heard if one[0] == "WARNING"], [("WARNING", "23503")])
    summary = value("SELECT token_balance.summary(%s)::text", ann.pk)
    is_("the summary of a user", '"token_balance": 999805' in summary, True)

    # Back and forth.
    call_command("migrate", "django_shop", "0001", verbosity=0)
    call_command("migrate", verbosity=0)
    finish(used(ann, 5))
    is_("after a migration back and forth it goes on", balance(ann), "999800")
    problems = value("SELECT string_agg(problem || ' ' || user_id, ', ') FROM token_balance.reconcile()")
    is_("all adds up", problems, "usage of an unknown account 999")
    end()


if __name__ == "__main__":
    main()
