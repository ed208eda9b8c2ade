"""A training that transformers' Trainer runs, watched layer by layer: one line.

    python docs/examples/transformers_run.py
    layerpace report runs/transformers/layers

Trains a small GPT-2 with random weights to repeat what it has read: the second half of each row is the first half
again. Nothing is downloaded.
"""

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import layerpace as lp
from layerpace.integrations.transformers import LayerMonitorCallback

LETTERS, HALF = 16, 6


def rows(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Rows of 12 letters; only the second half is to be learned, -100 marks what is not."""
    half = torch.randint(LETTERS, (count, HALF), generator=torch.Generator().manual_seed(seed))
    ids = torch.cat([half, half], dim=1)
    labels = torch.cat([torch.full_like(half, -100), half], dim=1)
    return [{"input_ids": i, "labels": j} for i, j in zip(ids, labels, strict=True)]


def main(folder: Path = Path("runs/transformers"), steps: int = 400) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=LETTERS, n_positions=2 * HALF, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
        )
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=32,
            logging_steps=20,
            eval_strategy="steps",
            eval_steps=100,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=rows(4000, seed=0),
        eval_dataset=rows(200, seed=1),
        optimizers=(lp.LAMB(model.parameters(), lr=0.01), None),
        callbacks=[LayerMonitorCallback()],  # the one line
    )
    trainer.train()
    print(f"loss on new rows {trainer.evaluate()['eval_loss']:.3f}; records in {folder / 'layers'}")


if __name__ == "__main__":
    main()
