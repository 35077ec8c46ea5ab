"""Claims: what they are (``models``), how they are decided (``decide``), and with which statistics (``statistics``).

Importing this package stays light (pydantic only); ``from tensorbench.core.claims.decide import decide, ledger`` is
what brings in pandas and scipy.
"""

from tensorbench.core.claims.models import FORMS, Claim, Verdict

__all__ = ["FORMS", "Claim", "Verdict"]
