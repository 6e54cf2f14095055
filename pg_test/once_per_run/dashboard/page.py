"""The page in a browser: both states in both languages, light and dark, wide and narrow, and what changes while one looks."""

import sys

from browser import Browser, Driver
from readable import readable
from service import Service, eventually, failures, is_, sql, start_database, stop_database, token

WORDS = {
    "en-US": {"lang": "en", "title": "Token balance", "good": "in credit", "bad": "overdrawn", "top_up": "Please top up",
              "live": "live", "sign_in": "Sign in", "charge": "charge", "credit": "top-up", "trouble": "keeps trying"},
    "zh-CN": {"lang": "zh-CN", "title": "Token 余额", "good": "余额正常", "bad": "欠费", "top_up": "请尽快充值",
              "live": "实时更新", "sign_in": "登录", "charge": "扣费", "credit": "充值", "trouble": "自动重试"},
}
WARNING = {False: "rgb(179, 38, 30)", True: "rgb(255, 156, 148)"}

def number(value):
    return f"{value:,}"


def sign_in(service, browser, user):
    browser.open("about:blank")
    browser.open(f"{service.url}/#token={token(user)}")
    eventually(f"{user}: the figures are there", lambda: bool(browser.text("#balance")), True)


def state(service, browser, language, user, overdrawn, dark=False):
    words, where = WORDS[language], f"{user}, {language}{', dark' if dark else ''}"
    sign_in(service, browser, user)
    eventually(f"{where}: it is live", lambda: browser.text("#live"), words["live"])
    summary = service.api("summary?days=30", user).json()
    statement = service.api("statement?days=30&tz=Asia/Shanghai", user).json()
    balance = summary["token_balance"]
    is_(f"{where}: the token is not in the address", browser.run("location.href"), service.url + "/")
    is_(f"{where}: language of the document", browser.run("document.documentElement.lang"), words["lang"])
    is_(f"{where}: title", browser.text("h1"), words["title"])
    is_(f"{where}: balance", browser.text("#balance"), number(balance))
    is_(f"{where}: state", browser.text("#state"), words["bad" if overdrawn else "good"])
    is_(f"{where}: it asks to top up", words["top_up"] in browser.text("#balance-hint"), overdrawn)
    is_(f"{where}: how much is owed", number(-balance) in browser.text("#balance-hint"), overdrawn)
    color = browser.run("getComputedStyle(document.querySelector('#balance')).color")
    is_(f"{where}: the balance is in the warning colour", color == WARNING[dark], overdrawn)
    is_(f"{where}: the window's title says so too", words["bad"] in browser.run("document.title"), overdrawn)
    is_(f"{where}: used", browser.text("#used"), number(summary["summary"]["total_tokens"]))
    for by in ("model", "stage"):
        groups = summary[f"by_{by}"]
        is_(f"{where}: by {by}", browser.texts(f"#by-{by} .name"), [group[by] for group in groups])
        widths = browser.run(f"[...document.querySelectorAll('#by-{by} .fill')].map(fill => "
                             "Math.round(100 * fill.offsetWidth / fill.parentElement.offsetWidth))")
        shares = [100 * group["total_tokens"] / groups[0]["total_tokens"] for group in groups]
        is_(f"{where}: by {by}, the length of the bars", all(abs(a - b) <= 1 for a, b in zip(widths, shares, strict=True)), True)
    for chart, figure in (("usage", "charged"), ("balance", "balance")):
        path = browser.run(f"document.querySelector('#{chart}-chart .above .curve').getAttribute('d')")
        heights = [float(point.split()[1]) for point in path[1:].split("L")]
        values = [day[figure] for day in statement["days"]]
        ordered = all((a < b) == (x > y) for a, x in zip(values, heights) for b, y in zip(values, heights) if abs(x - y) > 0.2)
        is_(f"{where}: the line of {figure} goes through thirty days, higher for more", (len(heights), ordered), (30, True))
    below = browser.run("Number(document.querySelector('#balance-chart .below rect').getAttribute('height'))")
    is_(f"{where}: a part of the balance's line is below zero", below > 25, overdrawn)
    kinds = {"settlement": words["charge"], "credit": words["credit"]}
    rows = [kinds[entry["kind"]] for entry in statement["entries"] if entry["kind"] in kinds]
    shown = [kind for kind in browser.texts("#entries td:nth-child(2)") if kind in kinds.values()]
    is_(f"{where}: the statement's entries", shown, rows)
    is_(f"{where}: the statement's balances", browser.texts("#entries td:nth-child(5)"), [number(entry["new_balance"]) for entry in statement["entries"]])
    is_(f"{where}: whose runs they are", browser.texts("#records td:nth-child(2)"), [record["workflow_id"] for record in summary["recent_records"]])
    is_(f"{where}: the newest calls", browser.texts("#records td:nth-child(7)"), [number(record["total_tokens"]) for record in summary["recent_records"]])
    readable(browser, where)


def folding(browser):
    """A long statement shows its first entries, all of them when asked."""
    shown = "[...document.querySelectorAll('#entries tr')].filter(row => row.checkVisibility()).length"
    is_("the first entries of the statement", browser.run(shown), 10)
    browser.run("document.querySelector('[aria-controls=entries]').click()")
    is_("all entries of the statement", browser.run(shown), 50)


def period(browser):
    browser.run("(select => { select.value = 7; select.dispatchEvent(new Event('change')); })(document.querySelector('#days'))")
    eventually("seven days", lambda: browser.run("document.querySelectorAll('#days-rows tr').length"), 7)


def live(service, browser, words):
    """No reload of the page in here."""
    sql("UPDATE users SET token_balance = 100000 WHERE id = 'eve'")
    sign_in(service, browser, "eve")
    eventually("eve: live", lambda: browser.text("#live"), words["live"])
    is_("eve: in credit at first", browser.text("#state"), words["good"])
    is_("markup in a name is text", (browser.texts("#by-model .name")[0][:4], browser.run("document.title")), ("<img", words["title"]))
    sql("INSERT INTO workflows VALUES ('eve-9', 'eve')")
    sql("INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('eve-9', 'eve', 400000)")
    sql("UPDATE workflows SET status = 'completed' WHERE id = 'eve-9'")
    # Sooner than the page would ask by itself.
    eventually("eve: overdrawn as soon as it is so", lambda: browser.text("#state"), words["bad"], 8)
    is_("eve: the run is in the statement", browser.texts("#entries td:nth-child(3)")[0], "eve-9")
    sql("SELECT token_balance.credit('eve', 900000, 'invoice-9')")
    eventually("eve: topped up as soon as it is so", lambda: browser.text("#state"), words["good"], 8)
    is_("eve: nothing to complain", browser.complaints(), [])


def outage(browser, words):
    stop_database()
    eventually("no database: the page says so", lambda: words["trouble"] in (browser.text("#problem") or ""), True)
    is_("no database: the last figures stay", bool(browser.text("#balance")), True)
    start_database()
    eventually("the database is back: the page goes on by itself", lambda: (browser.text("#problem"), browser.text("#live")), (None, words["live"]), 40)
    browser.complaints()


def archived(service, browser):
    """A ledger whose older half was moved away: nothing is guessed about those days."""
    before = service.api("statement?days=30&tz=Asia/Shanghai", "ann").json()["days"]
    sql("CREATE TABLE old_entries (LIKE token_balance.ledger)")
    sql("SELECT token_balance.archive_ledger(now() - interval '15 days', 'old_entries')")
    statement = service.api("statement?days=30&tz=Asia/Shanghai", "ann").json()
    opening = statement["entries"][-1]
    is_("archive: the statement begins with an opening entry", (opening["kind"], opening["note"]), ("opening", None))
    unknown = [day for day in statement["days"] if day["balance"] is None]
    is_("archive: about half the days are not known", 10 < len(unknown) < 20, True)
    is_("archive: nothing is said of them", {(day["charged"], day["added"]) for day in unknown}, {(None, None)})
    is_("archive: the others are as before", statement["days"][len(unknown) + 1:], before[len(unknown) + 1:])
    sign_in(service, browser, "ann")
    path = browser.run("document.querySelector('#balance-chart .above .curve').getAttribute('d')")
    is_("archive: the line of the balance begins later", len(path.split("L")), 30 - len(unknown))
    is_("archive: the entry has a name", browser.texts("#entries td:nth-child(2)")[-1], "opening balance")
    browser.picture("archived")


def strangers(service, browser, words):
    browser.open(f"{service.url}/#token={token('dan')}")
    eventually("another link in the same window", lambda: browser.text("#balance"), "1,000,000")
    browser.run("document.querySelector('#sign-out').click()")
    is_("signed out: no figures", (browser.text("#dashboard"), browser.text("#sign-in h2")), (None, words["sign_in"]))
    browser.open(service.url + "/?again")
    is_("signed out: a reload does not bring them back", (browser.text("#dashboard"), browser.text("#sign-in h2")), (None, words["sign_in"]))
    readable(browser, "sign in")
    browser.picture("sign-in")
    browser.open(f"{service.url}/#token={token('ann', secret='another secret, as long as it must be')}")
    eventually("a refused token: a word about it", lambda: "not valid" in (browser.text("#sign-in-reason") or ""), True)
    is_("a refused token: no figures", browser.text("#dashboard"), None)
    field = f"(field => {{ field.value = '{token('dan')}'; field.form.requestSubmit(); }})(document.querySelector('#token'))"
    browser.run(field)
    eventually("a token pasted", lambda: browser.text("#balance"), "1,000,000")
    sql("INSERT INTO users VALUES ('new')")
    sign_in(service, browser, "new")
    is_("one who did nothing: empty lists say so", browser.texts("#by-model li, #entries td, #records td"), ["Nothing in this period."] * 3)
    sql("ALTER TABLE users ALTER token_balance TYPE bigint")
    sql("UPDATE users SET token_balance = -9007199254740993 WHERE id = 'new'")
    eventually("a balance with more digits than a script's numbers", lambda: browser.text("#balance"), "-9,007,199,254,740,993")
    is_("and what is owed", "9,007,199,254,740,993" in browser.text("#balance-hint"), True)
    is_("the field is empty again", browser.run("document.querySelector('#token').value"), "")
    browser.open(service.url + "/?again")
    eventually("a reload keeps the token", lambda: browser.text("#balance"), "-9,007,199,254,740,993")
    browser.open(f"{service.url}/#token={token('zoe')}")
    browser.run("location.reload()")
    eventually("a token without an account", lambda: browser.text("#problem"), "There is no account for this token.")


def main():
    service, driver = Service(), Driver()
    try:
        for language, words in WORDS.items():
            browser = Browser(driver, language)
            for user, overdrawn in (("ann", False), ("bob", True)):
                name = f"{'overdrawn' if overdrawn else 'in-credit'}-{words['lang'][:2]}"
                browser.size(1200, 900)
                state(service, browser, language, user, overdrawn)
                browser.picture(name)
                for width in (390, 320):
                    browser.size(width, 800)
                    readable(browser, f"{user}, {language}, {width} wide")
                    if width == 390:
                        browser.picture(name + "-phone")
            is_(f"{language}: no complaints", browser.complaints(), [])
            browser.stop()
        for user, overdrawn, language in (("ann", False, "en-US"), ("bob", True, "zh-CN")):
            browser = Browser(driver, language, dark=True)
            browser.size(1200, 900)
            state(service, browser, language, user, overdrawn, dark=True)
            browser.picture(f"{'overdrawn' if overdrawn else 'in-credit'}-{language[:2]}-dark")
            if user == "ann":
                folding(browser)
            browser.stop()
        browser = Browser(driver, "en-US")
        browser.size(1200, 900)
        live(service, browser, WORDS["en-US"])
        period(browser)
        outage(browser, WORDS["en-US"])
        archived(service, browser)
        strangers(service, browser, WORDS["en-US"])
        browser.stop()
        french = Browser(driver, "fr-FR")
        sign_in(service, french, "bob")
        balance = service.api("balance", "bob").json()["token_balance"]
        is_("French: English words", french.text("#state"), "overdrawn")
        is_("French: numbers as French has them", french.text("#balance"), number(balance).replace(",", "\u202f"))
        french.stop()
    finally:
        driver.stop()
        service.stop()
    print(f"{len(failures)} failed")
    sys.exit(1 if failures else 0)


main()
