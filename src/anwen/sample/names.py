"""Chinese surnames and given names by how common they are, with their pinyin.

Sources, all figures published:

- Order of the hundred commonest surnames: Ministry of Public Security, household register (reports on names for 2018 to
  2020). Shares of the first ten: sixth census of 2010 (published 2014). All hundred together: 85.9 % (report for 2019).
  Between the 11th and the 100th (0.19 %, 2.61 million, report for 2019): a power law, scaled to that sum.
- 欧阳 and other compound surnames: report for 2020, in thousands of people. Other rare surnames: a common remainder.
- Given names: report for 2020: the ten commonest names of boys and girls born that year; the characters it names for
  each age (建国, 建华, 英, 兰; 军, 勇, 英, 丽; 伟, 磊, 静, 丽; 杰, 浩, 婷, 雪; 涛, 浩宇, 浩然, 婷, 欣怡, 梓涵); the
  share of two-character names, 27.6 % at its highest and 6.3 % in 2020. They stand first; the other characters, and
  Zipf's law within each list, are our choice.
- Child by mother's surname: 1 to 12 (report for 2020).
"""

from __future__ import annotations

import re

from anwen.sample.draw import Weighted, WeightedIn

_TOP_TEN = (7.10, 6.96, 6.42, 5.16, 4.26, 2.97, 2.16, 2.03, 1.78, 1.88)
_HUNDRED_PERCENT = 85.9
_HUNDREDTH_PERCENT = 0.19

_HUNDRED = (
    "王wang李li张zhang刘liu陈chen杨yang黄huang赵zhao吴wu周zhou徐xu孙sun马ma朱zhu胡hu郭guo何he林lin罗luo高gao郑zheng"
    "梁liang谢xie宋song唐tang许xu韩han邓deng冯feng曹cao彭peng曾zeng肖xiao田tian董dong潘pan袁yuan蔡cai蒋jiang余yu于yu"
    "杜du叶ye程cheng魏wei苏su吕lv丁ding任ren卢lu姚yao沈shen钟zhong姜jiang崔cui谭tan陆lu范fan汪wang廖liao石shi金jin"
    "韦wei贾jia夏xia付fu方fang邹zou熊xiong白bai孟meng秦qin邱qiu侯hou江jiang尹yin薛xue闫yan段duan雷lei龙long黎li史shi"
    "陶tao贺he毛mao郝hao顾gu龚gong邵shao万wan覃qin武wu钱qian戴dai严yan莫mo孔kong向xiang欧ou"
)
_RARER = (
    "常chang汤tang温wen康kang施shi文wen牛niu樊fan葛ge邢xing安an齐qi易yi乔qiao伍wu庞pang颜yan倪ni庄zhuang聂nie章zhang"
    "鲁lu岳yue翟zhai殷yin詹zhan申shen耿geng关guan兰lan焦jiao俞yu左zuo柳liu甘gan祝zhu包bao宁ning尚shang符fu舒shu阮ruan"
    "柯ke纪ji梅mei童tong凌ling毕bi单shan季ji裴pei霍huo涂tu成cheng苗miao谷gu盛sheng曲qu翁weng冉ran骆luo蓝lan路lu游you"
    "辛xin靳jin管guan柴chai蒙meng鲍bao华hua喻yu祁qi蒲pu房fang滕teng屈qu饶rao解xie牟mou艾ai尤you阳yang时shi穆mu农nong"
)
_COMPOUND = (
    ("欧阳", "ouyang", 1112),
    ("上官", "shangguan", 88),
    ("皇甫", "huangfu", 64),
    ("令狐", "linghu", 55),
    ("诸葛", "zhuge", 48),
    ("司徒", "situ", 47),
    ("司马", "sima", 23),
    ("申屠", "shentu", 19),
    ("夏侯", "xiahou", 11),
)
_REGISTERED_THOUSANDS = 1_400_000

COHORT_STARTS = (1960, 1980, 2000)
"""Years of birth at which the given names of the second to fourth cohort begin."""

SINGLE_PER_MILLE = (100, 200, 276, 63)
"""Given names of one character, by cohort: the highest share and that of 2020 are published, two are between."""

LISTED_PER_MILLE = 60
"""Given names that are taken whole from the lists, where a cohort has one."""

_GIRLS_2020 = "一诺 依诺 欣怡 梓涵 语桐 欣妍 可欣 语汐 雨桐 梦瑶"
_BOYS_2020 = "奕辰 宇轩 浩宇 亦辰 宇辰 子墨 宇航 浩然 梓豪 亦宸"

# by cohort and sex (F, M): first characters | second characters | single characters | whole names
_GIVEN = (
    (
        "秀桂玉淑凤兰素美春月惠金 | 英兰珍芳华荣梅花香云琴莲 | 英兰珍芳华琴梅云玲敏 |",
        "建国文德志光永福明新玉树 | 国华明林生军平山清祥义荣 | 平明华军刚林伟勇强忠 | 建国 建华",
    ),
    (
        "丽秀晓海春红玉小艳桂雪文 | 英丽红霞芳萍华梅燕玲云琴 | 英丽红霞芳萍敏玲燕静艳娟 |",
        "建志国文永海晓新伟明小立 | 军勇华明平强伟东斌辉林峰 | 军勇强伟刚平斌辉明涛波峰 |",
    ),
    (
        "丽晓婷雪雅佳思文海梦春玉 | 静丽婷娟娜敏燕颖琳洁丹玲 | 静丽婷雪娜敏燕颖丹倩洁莹 |",
        "志俊建文海晓家伟明振国天 | 伟磊杰浩鹏强超辉龙波华飞 | 伟磊杰浩鹏超涛勇强鑫波亮 |",
    ),
    (
        f"梓欣雨诗思语可佳一子婉若 | 涵怡婷萱彤琪妍馨桐瑶欣悦 | 婷玥琪悦瑶萱妍彤欣涵颖蕊 | {_GIRLS_2020}",
        f"浩子宇梓俊一奕嘉天泽博明 | 轩宇然辰涵杰豪泽航博睿阳 | 涛浩宇轩睿博辰泽鑫昊阳毅 | {_BOYS_2020}",
    ),
)

_PINYIN = dict(
    re.findall(
        "(.)([a-z]+)",
        "秀xiu桂gui玉yu淑shu凤feng兰lan素su美mei春chun月yue惠hui金jin英ying珍zhen芳fang华hua荣rong梅mei花hua香xiang云yun"
        "琴qin莲lian玲ling敏min建jian国guo文wen德de志zhi光guang永yong福fu明ming新xin树shu林lin生sheng军jun平ping山shan"
        "清qing祥xiang义yi刚gang伟wei勇yong强qiang忠zhong丽li晓xiao海hai红hong小xiao艳yan雪xue霞xia萍ping燕yan静jing"
        "娟juan立li东dong斌bin辉hui峰feng涛tao波bo婷ting雅ya佳jia思si梦meng娜na颖ying琳lin洁jie丹dan倩qian莹ying俊jun"
        "家jia振zhen天tian磊lei杰jie浩hao鹏peng超chao龙long飞fei鑫xin亮liang梓zi欣xin雨yu诗shi语yu可ke一yi子zi婉wan若ruo"
        "涵han怡yi萱xuan彤tong琪qi妍yan馨xin桐tong瑶yao悦yue玥yue蕊rui诺nuo依yi汐xi宇yu奕yi嘉jia泽ze博bo轩xuan然ran"
        "辰chen豪hao航hang睿rui阳yang昊hao毅yi亦yi墨mo宸chen",
    )
)


def _surnames() -> tuple[list[str], list[str], list[float]]:
    hundred = re.findall("(.)([a-z]+)", _HUNDRED)
    rarer = re.findall("(.)([a-z]+)", _RARER)
    exponent = 0.9  # from the 23rd, which report for 2018 puts just above ten million, to the 100th
    tail = [_HUNDREDTH_PERCENT * (rank / 100) ** -exponent for rank in range(11, 101)]
    scale = (_HUNDRED_PERCENT - sum(_TOP_TEN)) / sum(tail)
    shares = [*_TOP_TEN, *(share * scale for share in tail)]
    compound = [100 * thousands / _REGISTERED_THOUSANDS for _, _, thousands in _COMPOUND]
    rest = 100 - _HUNDRED_PERCENT - sum(compound)
    zipf = [1 / (rank + 20) for rank in range(len(rarer))]
    shares += [rest * weight / sum(zipf) for weight in zipf] + compound
    pairs = [*hundred, *rarer, *((surname, pinyin) for surname, pinyin, _ in _COMPOUND)]
    return [surname for surname, _ in pairs], [pinyin for _, pinyin in pairs], shares


def _given(cohort: int, line: str) -> dict[str, float]:
    """Return given names with their shares in per mille."""
    first, second, single, whole = (part.strip() for part in line.split("|"))
    listed = whole.split()
    shares: dict[str, float] = {}

    def add(names: list[str], weights: list[float], per_mille: float) -> None:
        for name, weight in zip(names, weights, strict=True):
            shares[name] = shares.get(name, 0.0) + per_mille * weight / sum(weights)

    def zipf(names: str | list[str]) -> list[float]:
        return [1 / (rank + 3) for rank in range(len(names))]

    pairs = [a + b for a in first for b in second if a != b]
    weights = [
        x * y
        for a, x in zip(first, zipf(first), strict=True)
        for b, y in zip(second, zipf(second), strict=True)
        if a != b
    ]
    whole_share = LISTED_PER_MILLE if listed else 0
    add(pairs, weights, 1000 - SINGLE_PER_MILLE[cohort] - whole_share)
    add(list(single), zipf(single), SINGLE_PER_MILLE[cohort])
    add(listed, zipf(listed), whole_share)
    return shares


SURNAMES, SURNAMES_PINYIN, SURNAME_SHARES = _surnames()
choose_surname = Weighted(SURNAME_SHARES)

_TABLES = [_given(cohort, lines[sex]) for cohort, lines in enumerate(_GIVEN) for sex in (0, 1)]
GIVEN = [name for table in _TABLES for name in table]
GIVEN_PINYIN = ["".join(_PINYIN[character] for character in name) for name in GIVEN]
choose_given = WeightedIn([list(table.values()) for table in _TABLES])
"""List number 2 * cohort + (1 for M)."""
