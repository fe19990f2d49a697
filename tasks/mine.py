"""Mine: positives from what items share or nearly share, hard negatives from what the champion confuses."""

from pairloom.storage.corpus import Corpus
from pairloom.storage.digest import digest
from pairloom.storage.pairs import PairStore
from pairloom.storage.runs import Run
from pairloom.storage.sources.given_pairs import given_digest
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import PairsRef, Plan
from pairloom.tasks.stage import stage


@stage()
def mine(pipeline: Pipeline, plan: Plan) -> PairsRef:
    """Write tonight's pairs. Without a champion the negatives are lexical."""
    run = Run(pipeline.folder, plan.run_id)
    done, store = run.read("mine", PairsRef), PairStore(pipeline.folder)
    if done and store.complete(done.pairs_id):
        return done
    # The verbs are imported every night, and what they do with torch and SciPy on the nights that do it.
    from pairloom.tasks.mining.tonight import mined_pairs

    snapshot = Corpus(pipeline.folder).log.read(plan.snapshot)
    pairs = mined_pairs(pipeline, plan.rival, snapshot)
    mining = pipeline.mining.model_dump(mode="json")
    identity = [snapshot.digest, plan.rival, mining, pipeline.training.seed]
    pairs_id = digest([*identity, *filter(None, [given_digest(pipeline.pairs)])])
    store.write(pairs_id, pairs.tables, pairs.audit)
    ref = PairsRef(pairs_id=pairs_id, positives=pairs.count("positive"), negatives=pairs.count("negative"))
    run.write("mine", ref)
    return ref
