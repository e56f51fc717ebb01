"""What the month's spend means for the tenant's budget.  Pure."""

from decimal import Decimal

from tenantry.api import Reason
from tenantry.api.conditions import Type
from tenantry.api.tenant import Spend
from tenantry.api.tier import Budget
from tenantry.outcomes import good
from tenantry.status import Outcome


def _reached(budget: Budget, spend: Spend | None, percent: int) -> bool:
    """Of a budget of 0 no part can be spent."""
    part = Decimal(budget.monthly) * percent / 100
    return spend is not None and part > 0 and Decimal(spend.amount) >= part


def due(budget: Budget | None, spend: Spend | None) -> tuple[int, ...]:
    """Percents that were reached and of which nobody was told this month, rising."""
    if budget is None or spend is None:
        return ()
    return tuple(p for p in sorted(set(budget.alert_at or ()) - set(spend.alerted)) if _reached(budget, spend, p))


def alert(budget: Budget, spend: Spend, percent: int) -> str:
    """What the Event says."""
    spent = f"{spend.amount} in {spend.month}"
    return f"{percent} % of the month's budget of {budget.monthly} US dollars is spent ({spent})"


def judge(budget: Budget | None, spend: Spend | None) -> Outcome:
    """No amount is in the message: it stays the same until the next percent, so a steady tenant is not written."""
    if budget is None:
        return good(Type.WITHIN_BUDGET, "No budget is set")
    whole = f"month's budget of {budget.monthly} US dollars"
    if Decimal(spend.amount if spend else 0) >= Decimal(budget.monthly):
        goes_on = (
            "calls go on (onExceeded: AlertOnly)"
            if budget.on_exceeded == "AlertOnly"
            else "calls to models are refused until the next month, or until the budget is raised"
        )
        return Outcome(Type.WITHIN_BUDGET, "False", Reason.BUDGET_EXCEEDED, f"The {whole} is spent: {goes_on}")
    percents = sorted(budget.alert_at or ())
    reached = [p for p in percents if _reached(budget, spend, p)]
    if reached:
        return Outcome(Type.WITHIN_BUDGET, "True", Reason.BUDGET_ALERT, f"{reached[-1]} % of the {whole} is spent")
    return good(Type.WITHIN_BUDGET, f"Less than {min([*percents, 100])} % of the {whole} is spent")
