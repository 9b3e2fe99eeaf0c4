"""Benchmarks by name: one file each.

A benchmark is a module with a `BENCHMARK`, or, where it differs from others in its columns only, a YAML file below
`declared`. They are imported by name, so that a score loads, and a stage key depends on, the one that it needs.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from vlmvid.evaluation.scoring.base import Benchmark
from vlmvid.registry import Registry

# name -> the module below this package that holds BENCHMARK, or NAME.yaml below `declared`
BENCHMARKS: Registry[str] = Registry("benchmark")
# retrieval
BENCHMARKS.register("activitynet_captions", "retrieval.activitynet_captions")
BENCHMARKS.register("coco_karpathy", "retrieval.coco_karpathy")
BENCHMARKS.register("didemo", "retrieval.didemo")
BENCHMARKS.register("flickr30k_karpathy", "retrieval.flickr30k_karpathy")
BENCHMARKS.register("lsmdc", "retrieval.lsmdc")
BENCHMARKS.register("msrvtt", "retrieval.msrvtt")
BENCHMARKS.register("msvd", "retrieval.msvd")
BENCHMARKS.register("ssv2", "retrieval.ssv2")
BENCHMARKS.register("vatex", "retrieval.vatex")
BENCHMARKS.register("retrieval", "retrieval.pairs")
# question answering, open
BENCHMARKS.register("msrvtt_qa", "qa.msrvtt_qa")
BENCHMARKS.register("msvd_qa", "qa.msvd_qa")
BENCHMARKS.register("activitynet_qa", "qa.activitynet_qa")
BENCHMARKS.register("vqa_v2", "qa.vqa_v2")
BENCHMARKS.register("path_vqa", "qa.path_vqa")
BENCHMARKS.register("tgif_transition", "qa.tgif_transition")
BENCHMARKS.register("tgif_action", "qa.tgif_action")
BENCHMARKS.register("tgif_qa", "qa.tgif_qa")
BENCHMARKS.register("next_qa_oe", "qa.next_qa_oe")
BENCHMARKS.register("textvqa", "qa.textvqa")
BENCHMARKS.register("docvqa", "qa.docvqa")
BENCHMARKS.register("st_vqa", "qa.st_vqa")
# question answering, multiple choice
BENCHMARKS.register("next_qa", "qa.next_qa")
BENCHMARKS.register("mvbench", "qa.mvbench")
BENCHMARKS.register("tvbench", "qa.tvbench")
BENCHMARKS.register("video_mme", "qa.video_mme")
BENCHMARKS.register("egoschema", "qa.egoschema")
BENCHMARKS.register("tempcompass", "qa.tempcompass")
BENCHMARKS.register("msrvtt_mc", "qa/msrvtt_mc.yaml")
# captioning
BENCHMARKS.register("caption", "captioning.caption")
BENCHMARKS.register("coco_caption", "captioning.coco_caption")
BENCHMARKS.register("msrvtt_caption", "captioning.msrvtt_caption")
BENCHMARKS.register("msvd_caption", "captioning.msvd_caption")
BENCHMARKS.register("vatex_caption", "captioning.vatex_caption")
# hallucination
BENCHMARKS.register("chair", "hallucination.chair")
BENCHMARKS.register("pope", "hallucination.pope")
BENCHMARKS.register("amber_discriminative", "hallucination.amber_discriminative")
BENCHMARKS.register("amber_generative", "hallucination.amber_generative")
BENCHMARKS.register("event_hallusion", "hallucination.event_hallusion")
BENCHMARKS.register("hallusion_bench", "hallucination.hallusion_bench")
BENCHMARKS.register("natural_bench", "hallucination.natural_bench")
BENCHMARKS.register("vid_halluc_bqa", "hallucination.vid_halluc_bqa")
BENCHMARKS.register("vid_halluc_mcq", "hallucination.vid_halluc_mcq")
BENCHMARKS.register("vid_halluc_sth", "hallucination.vid_halluc_sth")
BENCHMARKS.register("vid_halluc_tsh", "hallucination.vid_halluc_tsh")
BENCHMARKS.register("video_hallucer", "hallucination.video_hallucer")
# bias
BENCHMARKS.register("visogender", "bias.visogender")
BENCHMARKS.register("visogender_retrieval", "bias.visogender_retrieval")
BENCHMARKS.register("weat", "bias.weat")
BENCHMARKS.register("fairface", "bias.fairface")
BENCHMARKS.register("ranking_bias", "bias.ranking_bias")
BENCHMARKS.register("group_accuracy", "bias.group_accuracy")
BENCHMARKS.register("bias_amplification", "bias.bias_amplification")
BENCHMARKS.register("pairs", "bias.pairs")
BENCHMARKS.register("vl_stereo_set", "bias.vl_stereo_set")
BENCHMARKS.register("genderbias_vl", "bias.genderbias_vl")
# composition and time
BENCHMARKS.register("action_bench", "composition.action_bench")
BENCHMARKS.register("aro", "composition.aro")
BENCHMARKS.register("dci", "composition.dci")
BENCHMARKS.register("mmvp", "composition.mmvp")
BENCHMARKS.register("mmvp_vlm", "composition.mmvp_vlm")
BENCHMARKS.register("sugar_crepe", "composition.sugar_crepe")
BENCHMARKS.register("temporal_bench", "composition.temporal_bench")
BENCHMARKS.register("test_of_time", "composition.test_of_time")
BENCHMARKS.register("velociti", "composition.velociti")
BENCHMARKS.register("vinoground", "composition.vinoground")
BENCHMARKS.register("vinoground_pairs", "composition/vinoground_pairs.yaml")
BENCHMARKS.register("vitatecs", "composition.vitatecs")
BENCHMARKS.register("winoground", "composition/winoground.yaml")
# zero-shot, grounding
BENCHMARKS.register("classification", "zero_shot.classification")
BENCHMARKS.register("imagenet", "zero_shot.imagenet")
BENCHMARKS.register("kinetics", "zero_shot.kinetics")
BENCHMARKS.register("ucf101", "zero_shot.ucf101")
BENCHMARKS.register("hmdb51", "zero_shot.hmdb51")
BENCHMARKS.register("ssv2_labels", "zero_shot.ssv2_labels")
BENCHMARKS.register("segmentation", "zero_shot.segmentation")
BENCHMARKS.register("deja_vu", "zero_shot.deja_vu")
BENCHMARKS.register("concept_frequency", "zero_shot.concept_frequency")
BENCHMARKS.register("charades_sta", "zero_shot.charades_sta")
BENCHMARKS.register("qvhighlights", "zero_shot.qvhighlights")


def module_of(name: str) -> str:
    """The module whose code decides the scores of the benchmark called `name`."""
    place = BENCHMARKS.get(name)
    return "vlmvid.evaluation.scoring.declared" if place.endswith(".yaml") else f"{__name__}.{place}"


def declaration(name: str) -> str:
    """The text of the YAML file that declares a benchmark; empty for one that is a module, whose code is its own."""
    place = BENCHMARKS.get(name)
    return Path(__file__).parent.joinpath(place).read_text(encoding="utf-8") if place.endswith(".yaml") else ""


@cache
def get_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`; raises ConfigError with the known names."""
    place = BENCHMARKS.get(name)
    if place.endswith(".yaml"):
        from vlmvid.evaluation.scoring.declared import read_declared

        return read_declared(place)
    benchmark: Benchmark = importlib.import_module(module_of(name)).BENCHMARK
    return benchmark


__all__ = ["BENCHMARKS", "Benchmark", "get_benchmark"]
