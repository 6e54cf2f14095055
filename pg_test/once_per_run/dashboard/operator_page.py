"""The operators' page in a browser: both languages, each role, light and dark, wide and narrow, and a credit and a refund to
the end, by mouse and by keyboard."""

import sys
import time

from browser import Browser, Driver
from readable import readable
from service import Service, eventually, failures, is_, sql, token

WORDS = {
    "en-US": {"lang": "en", "title": "Token operations", "bad": "overdrawn", "may_not": "You may look at everything here and change nothing.",
              "kind": "credit", "queue": "No charge waits for its account.", "archived": "Nothing was archived yet.", "settled": "All usage is settled: nothing waits.",
              "nobody": "There is no account “zoe”.", "done": "Done: ", "replayed": "nothing was given again", "used": "stands for another"},
    "zh-CN": {"lang": "zh-CN", "title": "Token 运营", "bad": "欠费", "may_not": "您可以查看全部内容，但不能更改。",
              "kind": "充值", "queue": "没有等待入账的扣费。", "archived": "尚未归档任何内容。", "settled": "所有用量均已结算。",
              "nobody": "没有账户“zoe”。", "done": "已完成：", "replayed": "没有重复入账", "used": "已用于其他"},
}


def link(service, role):
    claims = {"sub": "mia", "exp": int(time.time()) + 600} | ({"role": role} if role else {})
    return f"{service.url}/operator#token={token(claims)}"


def sign_in(service, browser, role):
    browser.open("about:blank")
    browser.open(link(service, role))
    eventually(f"{role}: the figures are there", lambda: bool(browser.text("#updated")), True)


def find(browser, account):
    browser.run(f"(field => {{ field.value = '{account}'; field.form.requestSubmit(); }})(document.querySelector('#account-id'))")


def fill(browser, **fields):
    for name, value in fields.items():
        browser.run(f"document.querySelector('#give-{name}').value = '{value}'")
    browser.run("document.querySelector('#give-form').requestSubmit()")


def click(browser, selector):
    browser.run(f"document.querySelector('{selector}').click()")


def number(text):
    return f"{int(text):,}"


def looks(service, browser, language, role):
    """What each role sees."""
    words, where = WORDS[language], f"{role}, {language}"
    sign_in(service, browser, role)
    is_(f"{where}: language and title", (browser.run("document.documentElement.lang"), browser.text("h1")), (words["lang"], words["title"]))
    is_(f"{where}: the token is not in the address", browser.run("location.href"), service.url + "/operator")
    is_(f"{where}: it says that one may only look", browser.text("#may-not"), None if role == "cashier" else words["may_not"])
    is_(f"{where}: a button to refund", bool(browser.text("#refund-run")), role == "cashier")
    deepest = sql("SELECT user_id, token_balance FROM token_balance.overdrawn ORDER BY token_balance LIMIT 1").split("|")
    is_(f"{where}: who owes most", browser.texts("#overdrawn tr:first-child td:is(.account, .balance)"), [deepest[0], number(deepest[1])])
    is_(f"{where}: what is empty says so", (browser.text("#queue-none"), browser.texts("#archived td"), browser.texts("#unsettled td")),
        (words["queue"], [words["archived"]], [words["settled"]]))
    find(browser, "zoe")
    eventually(f"{where}: an account that is not there", lambda: browser.text("#account-none"), words["nobody"])
    click(browser, "#overdrawn button")
    eventually(f"{where}: an account out of the list", lambda: browser.text("#found-id"), deepest[0])
    is_(f"{where}: its debt is marked", (browser.text("#state"), browser.text("#balance")), (words["bad"], number(deepest[1])))
    is_(f"{where}: the focus is there", browser.focus(), "found-id")
    is_(f"{where}: a button to credit", bool(browser.text("#credit")), role == "cashier")
    is_(f"{where}: buttons to refund a run", browser.run("document.querySelectorAll('#entries .action button').length") > 0, role == "cashier")


def pages(browser):
    find(browser, "ann")
    eventually("pages: ann", lambda: browser.text("#found-id"), "ann")
    ids = sql("SELECT string_agg(coalesce(workflow_id, reference), ' ' ORDER BY entry_id DESC) FROM token_balance.ledger WHERE user_id = 'ann'").split(" ")
    shown = []
    for _ in range(20):
        page = [text.split("\n")[0] for text in browser.texts("#entries .what")]
        shown += page
        if not browser.text("#older"):
            break
        click(browser, "#older")
        eventually("pages: the next one", lambda: [text.split("\n")[0] for text in browser.texts("#entries .what")] != page, True)
    is_("pages: each entry once, newest first", shown, ids)
    click(browser, "#newest")
    eventually("pages: back at the newest", lambda: [text.split("\n")[0] for text in browser.texts("#entries .what")], ids[:20])


def gives(browser, language):
    """A credit by double click, a retry of it, a conflict, a refund; each looked up in the database."""
    words, account = WORDS[language], "hal"
    reference = f"invoice-{language}"
    before = int(sql(f"SELECT token_balance FROM users WHERE id = '{account}'"))
    count = f"SELECT count(*), coalesce(sum(amount), 0) FROM token_balance.ledger WHERE user_id = '{account}' AND reference = '{reference}'"
    find(browser, account)
    eventually(f"{language}: the account", lambda: browser.text("#found-id"), account)
    for what, fields in (("no amount", {"reference": reference}), ("zero", {"amount": "0", "reference": reference}), ("a fraction", {"amount": "1.5", "reference": reference})):
        click(browser, "#credit")
        fill(browser, **fields)
        is_(f"{language}: {what} is refused at once", (browser.focus(), browser.run("document.querySelector('#give-problem').hidden")), ("give-amount", False))
        click(browser, "#give-form .cancel")
    click(browser, "#credit")
    fill(browser, amount="4321", reference=reference, note="<img src=x onerror=alert(1)>")
    is_(f"{language}: it asks once more", all(part in browser.text("#give-sentence") for part in ("4,321", account, reference)), True)
    is_(f"{language}: and nothing is given yet", sql(count), "0|0")
    browser.double_click("#give-confirm")
    eventually(f"{language}: credited", lambda: words["done"] in (browser.text("#done") or ""), True)
    is_(f"{language}: a double click gives once", (sql(count), int(sql(f"SELECT token_balance FROM users WHERE id = '{account}'"))), ("1|4321", before + 4321))
    eventually(f"{language}: the page has the new balance", lambda: browser.text("#balance"), number(before + 4321))
    eventually(f"{language}: and the entry", lambda: browser.texts("#entries tr:first-child .kind"), [words["kind"]])
    is_(f"{language}: a note is text", "<img" in browser.texts("#entries tr:first-child .what")[0], True)
    click(browser, "#credit")
    fill(browser, amount="4321", reference=reference)
    click(browser, "#give-confirm")
    eventually(f"{language}: again under the reference: it says so", lambda: words["replayed"] in (browser.text("#done") or ""), True)
    click(browser, "#credit")
    fill(browser, amount="4322", reference=reference)
    click(browser, "#give-confirm")
    eventually(f"{language}: another amount under it: refused", lambda: words["used"] in (browser.text("#give-problem") or ""), True)
    is_(f"{language}: one entry, still", sql(count), "1|4321")
    click(browser, "#give-review .cancel")
    run = f"hal-{language}"
    sql(f"INSERT INTO workflows VALUES ('{run}', 'hal')")
    sql(f"INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('{run}', 'hal', 900)")
    sql(f"UPDATE workflows SET status = 'completed' WHERE id = '{run}'")
    click(browser, "#refund-run")
    fill(browser, to=run, reference=f"ticket-{language}")
    click(browser, "#give-confirm")
    eventually(f"{language}: refunded", lambda: run in (browser.text("#done") or ""), True)
    is_(f"{language}: the refund in the ledger", sql(f"SELECT kind, amount, workflow_id FROM token_balance.ledger WHERE reference = 'ticket-{language}'"), f"refund|900|{run}")


def by_keyboard(service, browser):
    """From the search to a credit, without a mouse."""
    sign_in(service, browser, "cashier")
    browser.run("document.querySelector('#account-id').focus()")
    browser.keys(*"hal", "Enter")
    eventually("keyboard: found, and the focus is there", browser.focus, "found-id")
    browser.keys("Tab")
    is_("keyboard: next is the button", browser.focus(), "credit")
    browser.keys("Enter")
    eventually("keyboard: the dialog, at its first field", browser.focus, "give-amount")
    browser.keys("Escape")
    eventually("keyboard: Escape closes it, and the focus is back", lambda: (browser.run("document.querySelector('#give').open"), browser.focus()), (False, "credit"))
    browser.keys("Enter")
    browser.keys(*"55", "Tab", *"by-keys", "Enter")
    eventually("keyboard: the question has the focus, and no button", browser.focus, "give-sentence")
    browser.keys("Enter")
    is_("keyboard: Enter there gives nothing", sql("SELECT count(*) FROM token_balance.ledger WHERE reference = 'by-keys'"), "0")
    browser.keys("Tab", "Tab", "Tab")
    is_("keyboard: the third is the button that gives", browser.focus(), "give-confirm")
    browser.keys("Enter")
    eventually("keyboard: credited", lambda: "Done: " in (browser.text("#done") or ""), True)
    is_("keyboard: the ledger", sql("SELECT amount FROM token_balance.ledger WHERE reference = 'by-keys'"), "55")
    is_("keyboard: the focus is where it was", browser.focus(), "credit")


def seen(service, browser, name):
    """Each state of the page, wide and narrow, by the rules of accessibility."""
    sign_in(service, browser, "cashier")
    click(browser, "#overdrawn button")
    eventually(f"{name}: an account", lambda: bool(browser.text("#found-id")), True)
    for width in (1200, 320):
        browser.size(width, 900)
        readable(browser, f"operators, {name}, {width} wide")
        browser.picture(f"operator-{name}-{width}")
        click(browser, "#credit")
        readable(browser, f"operators, {name}, {width} wide, a credit")
        fill(browser, amount="", reference="")
        readable(browser, f"operators, {name}, {width} wide, a field that is wrong")
        browser.picture(f"operator-{name}-{width}-dialog")
        fill(browser, amount="250000", reference="invoice-7")
        readable(browser, f"operators, {name}, {width} wide, the question")
        browser.picture(f"operator-{name}-{width}-question")
        click(browser, "#give-review .cancel")
    is_(f"operators, {name}: no complaints", [line for line in browser.complaints() if "favicon" not in line], [])


def strangers(service, browser):
    for role, what in ((None, "a user"), ("admin", "another role")):
        browser.open("about:blank")
        browser.open(link(service, role))
        eventually(f"{what}: refused", lambda: "not an operator" in (browser.text("#sign-in-reason") or ""), True)
        is_(f"{what}: no figures", browser.text("#desk"), None)
    readable(browser, "operators, sign in")
    sign_in(service, browser, "operator")
    click(browser, "#sign-out")
    is_("signed out: no figures", (browser.text("#desk"), browser.run("sessionStorage.length")), (None, 0))


def main():
    sql("INSERT INTO users (id) VALUES ('hal')")
    sql("SELECT token_balance.settle_pending()")
    service, driver = Service(DASHBOARD_OPERATOR_PGUSER="token_desk"), Driver()
    try:
        for language in WORDS:
            browser = Browser(driver, language)
            browser.size(1200, 900)
            looks(service, browser, language, "operator")
            browser.picture(f"operator-looks-{language[:2]}")
            looks(service, browser, language, "cashier")
            gives(browser, language)
            if language == "en-US":
                pages(browser)
                by_keyboard(service, browser)
                strangers(service, browser)
                browser.complaints()  # what was refused on purpose
            browser.stop()
        for language, dark in (("en-US", False), ("zh-CN", False), ("en-US", True)):
            browser = Browser(driver, language, dark)
            browser.size(1200, 900)
            seen(service, browser, f"{language[:2]}{'-dark' if dark else ''}")
            browser.stop()
    finally:
        driver.stop()
        service.stop()
    is_("the ledger is whole", sql("SELECT count(*) FROM token_balance.reconcile()"), "0")
    print(f"{len(failures)} failed")
    sys.exit(1 if failures else 0)


main()
