"""Forty-four systems of the field that are called distillation, and where each stands here.

A system is built as a method, a stage or a part; or what of it means something for a causal language model is built as
an analogue; or it has no place here, and the row says why. Ids are those of arXiv.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Standing = Literal["built", "analogue", "no place"]


@dataclass(frozen=True)
class System:
    """One published system. `at` are the names of methods here (`METHODS`), or of another part in words; `note` is the
    one line that says what is here, or why nothing is."""

    name: str
    paper: str
    standing: Standing
    note: str
    at: tuple[str, ...] = ()


SYSTEMS: tuple[System, ...] = (
    System(
        "π-Distill, privileged information distillation",
        "2602.04942",
        "built",
        "Both variants: teacher-sampled and on-policy.",
        ("pi_distill", "pi_distill_on_policy"),
    ),
    System(
        "Next-acceleration-scale prediction (MRI)",
        "2605.19354",
        "analogue",
        "On-policy, from a teacher that sees more, token by token; the codebook of images is not ours.",
        ("opsd",),
    ),
    System("AVSD", "2605.20643", "built", "Several views of the solution, fused by consensus.", ("avsd",)),
    System(
        "TimeKD",
        "2505.02138",
        "analogue",
        "A teacher that sees the answer, whose states are matched by their relations; time series are not ours.",
        ("opsd", "relations"),
    ),
    System(
        "OPSD, self-distilled reasoner",
        "2601.18734",
        "built",
        "Both published forms, with and without the pointwise clip.",
        ("opsd", "opsd_clip"),
    ),
    System("Skill-SD", "2604.10674", "built", "Its loss; skills come as a file, without an agent.", ("skill_sd",)),
    System(
        "Many Faces of on-policy distillation",
        "2605.11182",
        "built",
        "Both repairs of the top-k loss, the SFT-stabilised student, and the adapted teacher as a recipe.",
        ("top_k_opd_sg", "top_k_opd", "opd_after_sft"),
    ),
    System(
        "TT-OPD, healthcare AI gym",
        "2605.02943",
        "built",
        "As described: turn mask, moving average and hint, each of which a test sees fire.",
        ("tt_opd",),
    ),
    System(
        "BPKD (image segmentation)",
        "2306.08075",
        "analogue",
        "Edges and bodies are forking tokens and the others.",
        ("edge_body",),
    ),
    System("CaOPD", "2604.16830", "built", "Stated confidence is edited to the share of right samples.", ("caopd",)),
    System(
        "Historical information bottleneck (robots)",
        "2305.18464",
        "no place",
        "It compresses a history of sensor states; a causal language model has the whole history in its prompt.",
    ),
    System(
        "Swing distillation",
        "2212.08349",
        "analogue",
        "A working form of its idea, by a token's privacy score; the paper's formulas weren't read.",
        ("private_tokens",),
    ),
    System(
        "Sparse KD, probability-domain operators",
        "2601.03195",
        "analogue",
        "Two operators that obey its axioms; the paper names none that we could read.",
        ("kd_power", "kd_uniform_mix"),
    ),
    System("DP-OPD", "2604.04461", "built", "With Opacus' accountant; settings of the paper unknown.", ("dp_opd",)),
    System(
        "TRG, token relation graphs (images)",
        "2306.12442",
        "analogue",
        "The relations between a text's tokens; graphs over a batch of image patches are not ours.",
        ("relations",),
    ),
    System("PLD, Plackett–Luce distillation", "2506.12542", "built", "Ported from images to a vocabulary.", ("pld",)),
    System(
        "FedE4RAG",
        "2504.19101",
        "no place",
        "It distils embedders between servers and clients, by matrices of similarity.",
    ),
    System(
        "LELP, subclass labels",
        "2409.20449",
        "no place",
        "It invents subclasses where there are few classes; a vocabulary has tens of thousands.",
    ),
    System("SHRED", "2605.07482", "built", "Label deletion for unlearning; its shares are unpublished.", ("shred",)),
    System(
        "Survey on KD of LLMs",
        "2402.13116",
        "no place",
        "A survey: the methods that it names stand in their own rows.",
    ),
    System(
        "POST, soft prompt transfer",
        "2506.16196",
        "analogue",
        "Its matching of changes, for contexts instead of soft prompts.",
        ("delta_kd",),
    ),
    System(
        "KD³ (web images)",
        "2307.11469",
        "analogue",
        "Samples are weighed by what teacher and student agree on; image classifiers' weights are not ours.",
        ("sft_agreement",),
    ),
    System(
        "TSD-KD",
        "2603.13260",
        "built",
        "The paper's ranking, not its code's, which scores the reverse.",
        ("tsd_kd",),
    ),
    System(
        "Robust active distillation",
        "2210.01213",
        "analogue",
        "Weights of a game against a teacher that errs, derived by us; the paper's text wasn't read.",
        ("sft_robust",),
    ),
    System(
        "TIP",
        "2604.14084",
        "built",
        "Its soft-or, and the union of both criteria.",
        ("tip_soft_or", "tip"),
    ),
    System(
        "Logit standardisation",
        "2403.01427",
        "built",
        "Ported from images; a hard label anchors the scale.",
        ("logit_standardised",),
    ),
    System(
        "Entropy-guided attention",
        "2501.03489",
        "no place",
        "An architecture and a regulariser for private inference; it has no teacher.",
    ),
    System(
        "Entrocraft",
        "2604.26326",
        "built",
        "Its filter as the paper has it, for `calibrate` and for policy gradients.",
        ("entrocraft",),
    ),
    System("PS-KD", "2006.12000", "built", "The student's own past, as a top-k and its tail.", ("ps_kd",)),
    System(
        "FF-G2M (graphs to MLPs)",
        "2305.10758",
        "no place",
        "It splits signals over a graph's neighbours; a text has no such neighbourhood beside its order.",
    ),
    System(
        "BOOT (diffusion)",
        "2306.05544",
        "no place",
        "It teaches one-step generators a time axis that autoregressive models don't have.",
    ),
    System(
        "Memorization dynamics in KD",
        "2601.15394",
        "built",
        "The protocol for extraction and inheritance is the stage `memorization`.",
    ),
    System(
        "NRR-DD (dataset distillation)",
        "2503.18267",
        "no place",
        "It refines synthetic images; tokens are discrete, and can't be refined by gradients.",
    ),
    System(
        "CPRD (cross-encoder teacher)",
        "2407.07479",
        "analogue",
        "The relative order alone: of the teacher's top-k tokens.",
        ("rank_only",),
    ),
    System(
        "MEAL V2",
        "2009.08453",
        "analogue",
        "The mean of several teachers' probabilities; its discriminator isn't built.",
        ("averaged_teachers",),
    ),
    System(
        "LLMLingua-2",
        "2403.12968",
        "no place",
        "It trains an encoder to drop words from prompts; no student learns to write.",
    ),
    System(
        "Learnability-guided diffusion",
        "2604.00519",
        "analogue",
        "Traces are weighed by the student's loss less a reference's; images are not made.",
        ("sft_learnability",),
    ),
    System(
        "EdgeFD (federated)",
        "2508.14769",
        "no place",
        "It filters what clients exchange in federated learning; there is one student here, and no exchange.",
    ),
    System(
        "Teacher hacking",
        "2502.02671",
        "built",
        "A finding of every `distill`, and with an oracle beside it (`--oracle`).",
    ),
    System(
        "IMDN (super-resolution)",
        "1909.11856",
        "no place",
        "What it calls distillation splits channels inside one network.",
    ),
    System(
        "Talking models",
        "2310.03188",
        "no place",
        "Four modules and states that are injected into the teacher, without evidence on language models.",
    ),
    System(
        "FLAN-T5 document understanding",
        "2409.11282",
        "analogue",
        "Distillation from a served model's answers is `sft`; layouts of documents are not ours.",
        ("sft",),
    ),
    System(
        "In-context knowledge unlearning",
        "2410.00382",
        "no place",
        "Supervised training on control tokens, without a teacher; its data can be given to `sft_gold`.",
    ),
    System("REDI", "2505.24850", "built", "Both phases, with wrong traces.", ("redi",)),
)
