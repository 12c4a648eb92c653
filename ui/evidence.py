"""What was measured about a setting, and by whom: a sentence or two under its widget, for who wants to know.

"The paper" is Hu et al. 2021, LoRA (arXiv 2106.09685). Its figures are for GPT-3 with 175 billion parameters where
nothing else is said: they show which way a setting works, and not what another model and other rows will come to.
"""

from __future__ import annotations

from ui.settings import METHOD, TARGETS

PAPER = "https://arxiv.org/abs/2106.09685"

EVIDENCE: dict[str, str] = {
    METHOD: (
        "In the paper, LoRA with 4.7 million parameters reaches 73.4 on WikiSQL and 91.7 on MNLI, where full "
        "fine-tuning of 175 billion reaches 73.8 and 89.5, and biases alone (14.2 million) 71.3 and 91.0."
    ),
    "lora.rank": (
        "In the paper (table 6), four attention matrices reach 74.1, 73.7, 74.0, 74.0 and 73.9 on WikiSQL at rank 1, "
        "2, 4, 8 and 64: a low rank is often enough. A task far from what the model has seen may need more: try one "
        "step up and compare on held-out rows."
    ),
    "lora.alpha": (
        "What is learned is multiplied by alpha ÷ rank. With Adam, turning alpha is much like turning the learning "
        "rate, so the paper (section 4.1) sets it once and does not tune it."
    ),
    TARGETS: (
        "At one budget of 18 million parameters (table 5 of the paper), all four attention matrices at rank 2 reach "
        "73.7 on WikiSQL and 91.7 on MNLI; the query's alone at rank 8 reaches 70.4 and 91.0. More matrices beat more "
        "rank. The paper leaves the feed-forward layers out; here they are in."
    ),
    "quant.bits": (
        "Measured with QLoRA on a model of 7 billion parameters: 14.2 GB and 2.79 h in 4 bits, 21.3 GB and 1.85 h in "
        "16 bits, which is 33 % less memory for 51 % more time."
    ),
    "optim.epochs": (
        "The paper trains GPT-2 for 5 epochs (table 11) and GPT-3 for 2 (table 12). Few rows are soon learned by "
        "heart: when the held-out loss rises again, it was too many."
    ),
    "optim.learning_rate": (
        "The paper takes 0.0002 for GPT-2 and GPT-3 (tables 11 and 12). The standard here falls with the width of the "
        "model, so that a step changes what the layers put out alike (Tensor Programs V, arXiv 2203.03466, table 8); "
        "full fine-tuning gets a tenth of it."
    ),
    "optim.batch_size": (
        "The paper trains GPT-2 with 8 rows a step (table 11) and GPT-3 with 128 (table 12). LoRA loses more by "
        "very large batches than full fine-tuning does (Schulman et al. 2025, LoRA Without Regret)."
    ),
    "optim.schedule": "The paper's runs fall linearly after the warm-up (tables 11 and 12).",
    "lora.dropout": "The paper takes 0.1 for GPT-2 (table 11).",
    "optim.weight_decay": "The paper takes 0.01 for GPT-2 on E2E (table 11), where the dataset is large.",
    "optim.checkpointing": "Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).",
    "lora.use_dora": "Liu et al. 2024, DoRA (arXiv 2402.09353): most of the gain is at low ranks; a step costs more.",
    "lora.use_rslora": "Kalajdzievski 2023 (arXiv 2312.03732): with alpha ÷ rank, high ranks learn no better than low.",
    "lora.freeze_a": "Zhang et al. 2023, LoRA-FA (arXiv 2308.03303): about as good as LoRA, with less memory.",
    "optim.lora_plus_ratio": (
        "Hayou et al. 2024, LoRA+ (arXiv 2402.12354): one rate for A and B is not the best in wide models; they take a "
        "ratio of 16."
    ),
    "lora.init": (
        "PiSSA (arXiv 2404.02948), OLoRA (2406.01775) and EVA (2410.07170) begin where the weights or the data are "
        "strongest and learn faster at first; LoftQ (2310.08659) makes up for quantization."
    ),
    "lora.bias": "In the paper, training biases alone (BitFit, 14.2 million) reaches 71.3 on WikiSQL, LoRA 73.4.",
    "quant.quant_type": "Dettmers et al. 2023, QLoRA (arXiv 2305.14314): NF4 loses less than FP4 of the same size.",
    "quant.block_size": "QLoRA (arXiv 2305.14314) takes 64: smaller blocks are more exact and have more scales.",
    "quant.double_quant": "QLoRA (arXiv 2305.14314): saves 0.37 bits a weight, without a loss that can be measured.",
}
