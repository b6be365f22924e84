"""The attacks by the name of their kind."""

from __future__ import annotations

from distillknob.attacks.answers import Answers
from distillknob.attacks.base import Attack
from distillknob.attacks.controls import Public, Solo, Untrained
from distillknob.attacks.cross_tokenizer import CrossTokenizer
from distillknob.attacks.deciphered import Deciphered
from distillknob.attacks.deduplicated import Deduplicated
from distillknob.attacks.divergence import Divergence
from distillknob.attacks.hinted import Hinted
from distillknob.attacks.instructed import Instructed
from distillknob.attacks.merged import Merged
from distillknob.attacks.mixed import Mixed
from distillknob.attacks.prefilled import Prefilled
from distillknob.attacks.pruned import Pruned
from distillknob.attacks.quantised import Quantised
from distillknob.attacks.reinforced import Reinforced
from distillknob.attacks.resampled import Resampled
from distillknob.attacks.reweighted import Reweighted
from distillknob.attacks.rewritten import Rewritten
from distillknob.attacks.same_kl import SameKl
from distillknob.attacks.sceptical import Sceptical
from distillknob.attacks.selected import Selected
from distillknob.attacks.top_k import TopK
from distillknob.attacks.traces import Traces
from distillknob.attacks.undone import Undone
from distillknob.attacks.verified import Verified

ATTACKS: dict[str, type[Attack]] = {
    # Controls.
    "untrained": Untrained,
    "solo": Solo,
    "public": Public,
    "same_kl": SameKl,
    # Final answers and texts.
    "answers": Answers,
    "hinted": Hinted,
    "traces": Traces,
    "verified": Verified,
    "selected": Selected,
    "deduplicated": Deduplicated,
    "rewritten": Rewritten,
    "instructed": Instructed,
    "resampled": Resampled,
    "mixed": Mixed,
    "reweighted": Reweighted,
    "prefilled": Prefilled,
    "deciphered": Deciphered,
    # Distributions.
    "top_k": TopK,
    "divergence": Divergence,
    "sceptical": Sceptical,
    "reinforced": Reinforced,
    "cross_tokenizer": CrossTokenizer,
    # Open weights.
    "undone": Undone,
    "merged": Merged,
    "pruned": Pruned,
    "quantised": Quantised,
}
