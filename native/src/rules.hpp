// Rules: the sums over a layer -> the coefficients of its step; the equations of layerpace.rules, in their order.
#pragma once

#include <cmath>
#include <limits>

#include "job.hpp"

namespace layerpace {

enum class RuleId : int { none = -1, identity, trust_ratio, percent_delta, relative_l1, rotation };

struct Rule {
  RuleId id = RuleId::none;
  double min_rms = 0;
  // Trust ratio
  double coefficient = 1, eps = 0;
  int norm = 0;  // of the step: 0 total, 1 sum, 2 direction
  int clip = 0;  // 0 none, 1 bounds, 2 LARC
  double lower = 0, upper = 0;
  bool always_adapt = true, has_zero_ratio = false;
  double zero_ratio = 0;
  double parallel = 0;  // rotation
};

// What a rule knows of a layer beside its sums.
struct LayerFacts {
  double n, lr, weight_decay;
  bool undecayed, excluded, first;  // first: the layer takes its first step
  double *memory;                   // the rule's number of this layer, or null
};

struct Decision {
  double c = 0, b = 0, ratio = 1;
};

namespace rules {

// As torch.maximum and torch.clamp: nan stays nan.
inline double maximum(double a, double b) { return a != a || a > b ? a : b; }
inline double clamp(double x, double lower, double upper) { return x != x ? x : std::fmin(std::fmax(x, lower), upper); }

inline double phi(double ww, const LayerFacts &layer, const Rule &rule) {
  return maximum(std::sqrt(ww), rule.min_rms * std::sqrt(layer.n));
}

inline Decision trust_ratio(const double *row, const LayerFacts &layer, const Rule &rule) {
  const double ww = row[WW], uu = row[UU], decay = layer.weight_decay;
  double size;
  if (rule.norm == 0) {
    double squared = uu + 2 * decay * row[WU] + decay * decay * ww;
    size = std::sqrt(squared < 0 ? 0.0 : squared);
  } else if (rule.norm == 1) {
    size = std::sqrt(uu) + decay * std::sqrt(ww);
  } else {
    size = std::sqrt(uu);
  }
  double ratio = rule.coefficient * phi(ww, layer, rule) / (size + rule.eps);
  if (size + rule.eps == 0) ratio = 1;
  if (rule.clip == 1) ratio = clamp(ratio, rule.lower, rule.upper);
  if (rule.clip == 2) ratio = ratio < layer.lr ? ratio / layer.lr : 1.0;
  if (rule.has_zero_ratio && (ww == 0 || (rule.norm == 0 ? size == 0 : uu == 0))) ratio = rule.zero_ratio;
  if (!rule.always_adapt && layer.undecayed) ratio = 1;
  return {layer.lr * ratio * decay, layer.lr * ratio, ratio};
}

inline Decision percent_delta(const double *row, const LayerFacts &layer, const Rule &rule) {
  bool small = std::sqrt(row[WW]) < rule.min_rms * std::sqrt(layer.n);
  double sum = small ? row[U_OVER_FLOOR_L1] : row[U_OVER_W_L1];
  double ratio = sum == 0 ? 0.0 : layer.n / sum;
  return {0, layer.lr * ratio, ratio};
}

inline Decision relative_l1(const double *row, const LayerFacts &layer, const Rule &rule) {
  double size = maximum(row[W_L1], rule.min_rms * layer.n);
  double ratio = row[U_L1] == 0 ? 0.0 : size / row[U_L1];
  return {0, layer.lr * ratio, ratio};
}

inline Decision rotation(const double *row, const LayerFacts &layer, const Rule &rule) {
  const double ww = row[WW], uu = row[UU], wu = row[WU];
  if (layer.first) *layer.memory = phi(ww, layer, rule);
  double p = ww == 0 ? 0.0 : wu / ww;
  double ss = uu - p * wu;
  double ratio = phi(ww, layer, rule) / std::sqrt(ss);
  double k = layer.lr * ratio;
  if (ss <= rule.parallel * uu || k == 0) return {0, 0, 0};
  double q = *layer.memory / std::sqrt(ww + k * k * ss);
  return {1 - q * (1 + k * p), q * k, ratio};
}

}  // namespace rules

inline Decision decide(const double *row, const LayerFacts &layer, const Rule &rule) {
  if (layer.excluded) return {0, layer.lr, 1};
  switch (rule.id) {
    case RuleId::trust_ratio: return rules::trust_ratio(row, layer, rule);
    case RuleId::percent_delta: return rules::percent_delta(row, layer, rule);
    case RuleId::relative_l1: return rules::relative_l1(row, layer, rule);
    case RuleId::rotation: return rules::rotation(row, layer, rule);
    default: return {layer.lr * layer.weight_decay, layer.lr, 1};
  }
}

}  // namespace layerpace
