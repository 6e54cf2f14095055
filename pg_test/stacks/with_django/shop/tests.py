"""Run by manage.py test, in a database that the migrations have made."""
from django.db import DatabaseError, connection, transaction
from django.test import TestCase, TransactionTestCase

import psycopg
import recipe_django_calls as calls
from recipe_django_model import User
from recipe_django_tests import TokenTransactionTestCase

from .models import Run, Usage


def other_session(statement):
    with psycopg.connect("", dbname=connection.settings_dict["NAME"], autocommit=True) as conn:
        conn.execute(statement)


def a_run(tokens=100):
    """Ann and a run of hers, by the same ids each time."""
    ann = User.objects.create(id=1, email="ann@example.com")
    run = Run.objects.create(id=1, user=ann)
    Usage.objects.create(run=run, user=ann, total_tokens=tokens)
    return ann, run


def complete(run):
    run.status = "completed"
    run.save()


class RolledBack(TestCase):
    def test_a_completed_run_is_charged(self):
        ann, run = a_run()
        self.assertEqual(ann.token_balance, 1000000)
        complete(run)
        ann.refresh_from_db()
        self.assertEqual(ann.token_balance, 999900)

    def test_and_so_is_the_same_run_in_the_next_test(self):
        ann, run = a_run()
        complete(run)
        self.assertEqual(calls.balance(1), 999900)

    def test_a_whole_row_that_is_saved_leaves_the_balance_alone(self):
        ann, run = a_run()
        complete(run)
        self.assertEqual(ann.token_balance, 1000000)
        ann.email = "ann@example.org"
        with self.assertNumQueries(1) as queries:
            ann.save()
        self.assertIn('"token_balance" = 1000000', queries.captured_queries[0]["sql"])
        ann.refresh_from_db()
        self.assertEqual((ann.email, ann.token_balance), ("ann@example.org", 999900))

    def test_functions(self):
        ann, run = a_run()
        self.assertEqual(calls.settle(run.id)["tokens_used"], 100)
        self.assertEqual(calls.settle(run.id)["status"], "already_settled")
        self.assertEqual(calls.credit(ann.id, 5, "pay-1")["new_balance"], 999905)
        self.assertTrue(calls.credit(ann.id, 5, "pay-1")["replayed"])
        for user_id, sqlstate in ((2, "P0002"), ("ann", "22P02")):
            with self.assertRaises(DatabaseError) as raised, transaction.atomic():
                calls.balance(user_id)
            self.assertEqual(raised.exception.__cause__.sqlstate, sqlstate)

    def test_a_savepoint_that_is_rolled_back_takes_the_charge_along(self):
        ann, run = a_run()
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            complete(run)
            self.assertEqual(calls.balance(1), 999900)
            1 / 0
        self.assertEqual(calls.balance(1), 1000000)

    def test_warnings_are_heard(self):
        ann, run = a_run()
        with connection.cursor() as cursor:  # no model would let it
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
            cursor.execute("INSERT INTO shop_usage (run_id, user_id, total_tokens) VALUES (1, 77, 5)")
            cursor.execute("SET CONSTRAINTS token_balance_completed_update IMMEDIATE")
            with self.assertLogs("database", "WARNING") as logs:
                complete(run)
            cursor.execute("DELETE FROM shop_usage WHERE user_id = 77")
        self.assertEqual(
            [record.getMessage() for record in logs.records],
            ['usage of workflow "1" names account "77", which does not exist'],
        )
        self.assertEqual(calls.balance(1), 999900)

    def test_the_view(self):
        a_run()
        self.assertEqual(self.client.post("/runs/1/complete").json(), {"token_balance": 999900})


class TruncatedAndForgotten(TokenTransactionTestCase):
    """reset() after each test."""

    def test_1_a_run_is_charged(self):
        complete(a_run()[1])
        self.assertEqual(calls.balance(1), 999900)

    def test_2_the_same_run_is_charged_in_the_next_test(self):
        complete(a_run()[1])
        self.assertEqual(calls.balance(1), 999900)

    def test_a_conflict_is_retried_with_the_whole_view(self):
        a_run()
        attempts = []

        def disturbed(execute, sql, params, many, context):
            if sql.startswith('UPDATE "shop_run"'):
                attempts.append(sql)
                if len(attempts) == 1:  # the view has its snapshot; another session changes the account
                    other_session("SELECT token_balance.credit('1', 7)")
            return execute(sql, params, many, context)

        with connection.execute_wrapper(disturbed):
            self.assertEqual(self.client.post("/runs/1/complete").json(), {"token_balance": 1000007 - 100})
        self.assertEqual(len(attempts), 2)
        self.assertEqual(calls.answer("count(*) FROM token_balance.reconcile()"), 0)


class TruncatedOnly(TransactionTestCase):
    """What is forgotten without reset(): the second test is charged nothing, as the run was settled in the first."""

    def test_1_a_run_is_charged(self):
        complete(a_run()[1])
        self.assertEqual(calls.balance(1), 999900)

    def test_2_the_same_run_is_not(self):
        complete(a_run()[1])
        self.assertEqual(calls.balance(1), 1000000)
